//! The real servers' web server.
//!
//! Owns: the choice between nginx and `weir respond`, nginx's configuration. May not touch: networks.
//! Invariant: the machine's own nginx, its configuration and its files are neither read nor written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::layout::HTTP;
use super::state::{Name, create_dir};

/// The command that answers with `host` in that host.
pub(super) fn command(lab: &Name, host: &str, weir: &Path) -> anyhow::Result<Command> {
    let Some(nginx) = find_nginx() else {
        let mut command = Command::new(weir);
        command.args(["respond", "--name", host, "--listen", &format!("[::]:{HTTP}")]);
        return Ok(command);
    };
    let dir = lab.host_dir(host).join("nginx");
    create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let config = dir.join("nginx.conf");
    fs::write(&config, nginx_config(host, &dir))
        .with_context(|| format!("cannot write {}", config.display()))?;
    let mut command = Command::new(nginx);
    command.arg("-p").arg(&dir).arg("-c").arg(&config);
    Ok(command)
}

fn find_nginx() -> Option<PathBuf> {
    // Where it is on the distributions, and what is on the path of a root shell.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join("nginx")).find(|file| file.is_file())
}

fn nginx_config(host: &str, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "daemon off;\n\
         user root;\n\
         worker_processes 1;\n\
         pid {dir}/pid;\n\
         error_log {dir}/error.log warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
         \x20   access_log {dir}/access.log;\n\
         \x20   client_body_temp_path {dir}/body;\n\
         \x20   proxy_temp_path {dir}/proxy;\n\
         \x20   fastcgi_temp_path {dir}/fastcgi;\n\
         \x20   uwsgi_temp_path {dir}/uwsgi;\n\
         \x20   scgi_temp_path {dir}/scgi;\n\
         \x20   client_max_body_size 1g;\n\
         \x20   server {{\n\
         \x20       listen [::]:{HTTP} ipv6only=off backlog=4096;\n\
         \x20       default_type text/plain;\n\
         \x20       location / {{ return 200 \"{host}\\n\"; }}\n\
         \x20   }}\n\
         }}\n"
    )
}
