//! The command line as a shell meets it.
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

#[test]
fn a_report_into_a_closed_pipe_ends_without_a_panic() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .arg("version")
        .stdout(Stdio::from(writer))
        .stderr(Stdio::piped())
        .output()
        .expect("weir starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(13), "ended by SIGPIPE, not: {:?} {errors}", output.status);
    assert!(!errors.contains("panicked"), "{errors}");
}
