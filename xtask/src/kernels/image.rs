//! A kernel as a distribution ships it.
//!
//! Owns: which one, where it comes from, and the copy in the tool cache. May not touch: the running system; nothing is
//! installed. Invariant: what is in the cache is complete.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use weir_bpf_build::tools_dir;

use crate::{
    console,
    setup::packages::{available, update},
    workspace::which,
};

/// The kernel of Debian 12, as built for virtual machines: `linux-image-6.1.0-N-cloud-amd64`.
const PREFIX: &str = "linux-image-";
const SERIES: &str = "6.1.0-";
const FLAVOUR: &str = "-cloud-amd64";

/// A kernel to use instead, for machines whose package manager has no such package.
const INSTEAD: &str = "WEIR_GUEST_KERNEL";

/// What the boot protocol puts at the start of a kernel that a loader can start.
const MAGIC: &[u8] = b"HdrS";
const MAGIC_AT: usize = 0x202;

/// The kernel images to use: those `given`, else the one the environment names, else Debian's.
pub(super) fn find(given: Vec<PathBuf>) -> anyhow::Result<Vec<PathBuf>> {
    let instead = std::env::var_os(INSTEAD).filter(|path| !path.is_empty()).map(PathBuf::from);
    let images = match (given.is_empty(), instead) {
        (false, _) => given,
        (true, Some(path)) => vec![path],
        (true, None) => vec![debian()?],
    };
    for image in &images {
        let bytes = fs::read(image).with_context(|| format!("cannot read the kernel {}", image.display()))?;
        ensure!(
            is_bootable(&bytes),
            "{} is not a kernel for x86-64 as in /boot/vmlinuz-…; give such a file",
            image.display()
        );
    }
    Ok(images)
}

fn is_bootable(image: &[u8]) -> bool {
    image.get(MAGIC_AT..).is_some_and(|rest| rest.starts_with(MAGIC))
}

/// The newest kernel of the series that apt has, else the newest in the cache.
fn debian() -> anyhow::Result<PathBuf> {
    let tools = tools_dir().context("there is no home directory for weir's tool cache; set WEIR_TOOLS")?;
    let cache = tools.join("kernels");
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let has_apt = which("apt-get").is_some() && which("dpkg-deb").is_some();
    let mut release = if has_apt { newest_in_apt()? } else { None };
    if release.is_none() && has_apt {
        update()?;
        release = newest_in_apt()?;
    }
    if let Some(release) = release {
        let image = cache.join(&release);
        if !image.is_file() {
            download(&release, &image)?;
        }
        return Ok(image);
    }
    let names = fs::read_dir(&cache)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let newest = by_age(names).next().with_context(|| {
        format!(
            "this system's package manager has no {PREFIX}{SERIES}*{FLAVOUR} (Debian 12 does); give a kernel to check \
             with `--kernel PATH` or {INSTEAD}=PATH: a vmlinuz for x86-64 with BPF, its JIT and the serial console \
             built in"
        )
    })?;
    Ok(cache.join(newest))
}

/// The release of the newest package that can be had.
fn newest_in_apt() -> anyhow::Result<Option<String>> {
    let output = Command::new("apt-cache")
        .args(["pkgnames", &format!("{PREFIX}{SERIES}")])
        .output()
        .context("cannot run apt-cache")?;
    let names = String::from_utf8_lossy(&output.stdout);
    let releases = names.lines().filter_map(|name| name.trim().strip_prefix(PREFIX)).map(str::to_owned);
    // Names of packages that are only mentioned are listed as well.
    Ok(by_age(releases).find(|release| available(&format!("{PREFIX}{release}"))))
}

/// Of these names, those of the series, the newest first.
fn by_age(releases: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    let number = |release: &String| release.strip_prefix(SERIES)?.strip_suffix(FLAVOUR)?.parse::<u32>().ok();
    let mut numbered: Vec<_> = releases.filter_map(|release| Some((number(&release)?, release))).collect();
    numbered.sort_unstable_by(|a, b| b.cmp(a));
    numbered.into_iter().map(|(_, release)| release)
}

/// Takes the kernel out of its package and puts it at `image`.
fn download(release: &str, image: &Path) -> anyhow::Result<()> {
    let work = image.with_extension(format!("fetch-{}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let fetched = fetch(&format!("{PREFIX}{release}"), &work).or_else(|_| {
        // Lists that are a few weeks old name versions that the archive has no more.
        update()?;
        fetch(&format!("{PREFIX}{release}"), &work)
    });
    let kept = fetched.and_then(|()| {
        let unpacked = work.join("boot").join(format!("vmlinuz-{release}"));
        fs::rename(&unpacked, image).with_context(|| format!("the package has no {}", unpacked.display()))
    });
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    kept
}

/// Downloads the package and unpacks it in `work`.
fn fetch(package: &str, work: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["--quiet", "download", package]).current_dir(work);
    console::step(&format!("check-kernels: apt-get download {package}"), command, Duration::from_secs(600))?;
    let entries = fs::read_dir(work).with_context(|| format!("cannot list {}", work.display()))?;
    let archive = entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let Some(archive) = archive else { bail!("apt-get download left no package in {}", work.display()) };
    let mut command = Command::new("dpkg-deb");
    command.arg("--extract").arg(&archive).arg(work);
    console::step("check-kernels: unpacking it", command, Duration::from_secs(120))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_by_number_and_of_the_right_kind() {
        let names = [
            "6.1.0-9-cloud-amd64",
            "6.1.0-56-cloud-amd64",
            "6.1.0-57-amd64",
            "6.1.0-58-cloud-amd64-unsigned",
            "6.1.0-10-cloud-amd64",
            "6.12.0-99-cloud-amd64",
            "6.1.0-56-cloud-amd64.fetch-77",
        ];
        let sorted: Vec<_> = by_age(names.iter().map(|&name| name.to_owned())).collect();
        assert_eq!(sorted, ["6.1.0-56-cloud-amd64", "6.1.0-10-cloud-amd64", "6.1.0-9-cloud-amd64"]);
    }

    #[test]
    fn what_is_not_a_kernel_is_seen() {
        assert!(!is_bootable(b"HdrS"), "too short, and in the wrong place");
        assert!(!is_bootable(&fs::read("/proc/self/exe").expect("this program")));
        let mut image = vec![0; 4096];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(is_bootable(&image));
    }

    #[test]
    fn a_given_path_is_used_or_refused_by_name() {
        let error = find(vec!["/no/such/vmlinuz".into()]).expect_err("there is none");
        assert!(format!("{error:#}").contains("/no/such/vmlinuz"), "{error:#}");
        let error = find(vec!["/proc/self/exe".into()]).expect_err("this program is no kernel");
        assert!(error.to_string().contains("vmlinuz"), "{error:#}");
    }
}
