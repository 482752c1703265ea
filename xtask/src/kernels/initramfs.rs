//! The file system a machine starts from: one program, called `/init`.
//!
//! Owns: the archive format the kernel unpacks ("newc", `Documentation/driver-api/early-userspace/buffer-format.rst`).
//! May not touch: files. The kernel brings `/dev/console` itself.

/// A regular file anyone may execute.
const EXECUTABLE: usize = 0o100_755;
/// Names and contents begin at multiples of this.
const ALIGNMENT: usize = 4;

/// An archive that holds `program` as `/init`.
pub(super) fn with_init(program: &[u8]) -> Vec<u8> {
    let mut archive = Vec::with_capacity(program.len() + 1024);
    entry(&mut archive, "init", EXECUTABLE, program);
    entry(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: usize, contents: &[u8]) {
    let links = 1;
    let name_size = name.len() + 1;
    // Inode, mode, owner, group, links, time, size, device (2), device it stands for (2), size of the name, no checksum.
    let fields = [0, mode, 0, 0, links, 0, contents.len(), 0, 0, 0, 0, name_size, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    align(archive);
    archive.extend_from_slice(contents);
    align(archive);
}

fn align(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(ALIGNMENT), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_program_and_the_trailer() {
        let expected = [
            b"070701000000000000".as_slice(),
            b"81ed00000000000000000000000100000000",
            b"00000005000000000000000000000000000000000000000500000000",
            b"init\0\0",
            b"hello\0\0\0",
            b"07070100000000000000000000000000000000000000010000000000000000",
            b"000000000000000000000000000000000000000b00000000TRAILER!!!\0\0\0\0",
        ]
        .concat();
        assert_eq!(
            String::from_utf8_lossy(&with_init(b"hello")),
            String::from_utf8_lossy(&expected),
            "a header is 110 bytes, so that names end at multiples of four"
        );
    }
}
