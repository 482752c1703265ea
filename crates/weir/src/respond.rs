//! `weir respond`: a small HTTP responder for the lab, where nginx is not installed.
//!
//! Owns: listening sockets, just enough HTTP/1.1 to answer every request with a name. May not touch: anything else.
//! Invariant: memory, threads and the time one client can hold a thread are bounded, whatever clients send.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Threads that accept and answer: so many clients at once.
const WORKERS: usize = 32;
/// Bytes of a request's head that are looked at.
const HEAD_LIMIT: usize = 8 * 1024;
/// Bytes of a request's body that are read and thrown away.
const BODY_LIMIT: u64 = 64 * 1024 * 1024;
/// Time for one request, from the first byte to the last of the answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// Time a client may be silent.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);

/// Options of `weir respond`.
#[derive(Debug, clap::Args)]
pub(crate) struct RespondArgs {
    /// What to answer with.
    #[arg(long)]
    name: String,
    /// Where to listen; `[::]:80` takes IPv4 as well.
    #[arg(long, default_value = "[::]:80")]
    listen: SocketAddr,
}

/// Answers until it is killed.
pub(crate) fn run(args: RespondArgs) -> anyhow::Result<ExitCode> {
    let RespondArgs { name, listen } = args;
    let listener = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| work(&listener, &name));
        }
    });
    Ok(ExitCode::SUCCESS)
}

fn work(listener: &TcpListener, name: &str) {
    loop {
        match listener.accept() {
            // A client that goes away or sends nonsense is its own problem.
            Ok((stream, _)) => drop(serve(&stream, name)),
            // Out of descriptors or memory: others must finish first.
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn serve(mut stream: &TcpStream, name: &str) -> std::io::Result<()> {
    let deadline = Instant::now() + REQUEST_LIMIT;
    stream.set_read_timeout(Some(SILENCE_LIMIT))?;
    stream.set_write_timeout(Some(SILENCE_LIMIT))?;
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    let end = loop {
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        let read = stream.read(&mut piece)?;
        if read == 0 || head.len() + read > HEAD_LIMIT || Instant::now() > deadline {
            return Ok(());
        }
        head.extend_from_slice(&piece[..read]);
    };
    let mut missing = body_length(&head[..end]).saturating_sub((head.len() - end) as u64);
    while missing > 0 && Instant::now() < deadline {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        missing = missing.saturating_sub(read as u64);
    }
    stream.write_all(answer(name, head.starts_with(b"HEAD ")).as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    // Closing with unread bytes would reset the connection and may take the answer with it.
    while Instant::now() < deadline && stream.read(&mut piece)? > 0 {}
    Ok(())
}

/// The number after `Content-Length:`, at most [`BODY_LIMIT`]; 0 where there is none.
fn body_length(head: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(head);
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(field, _)| field.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .map_or(0, |length: u64| length.min(BODY_LIMIT))
}

fn answer(name: &str, head_only: bool) -> String {
    let length = name.len() + 1;
    let fields = "Content-Type: text/plain\r\nServer: weir-respond\r\nConnection: close";
    let body = if head_only { String::new() } else { format!("{name}\n") };
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{fields}\r\n\r\n{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || serve(&listener.accept().unwrap().0, "rs1"));
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(request).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        server.join().unwrap().unwrap();
        text
    }

    #[test]
    fn answers_with_its_name() {
        let text = ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nrs1\n"), "{text}");
    }

    #[test]
    fn a_body_is_read_before_the_answer() {
        let mut request = b"POST / HTTP/1.1\r\ncontent-length: 100000\r\n\r\n".to_vec();
        request.resize(request.len() + 100_000, b'x');
        assert!(ask(&request).ends_with("rs1\n"));
    }

    #[test]
    fn head_has_no_body_and_nonsense_no_answer() {
        assert!(ask(b"HEAD / HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
        assert_eq!(ask(b"nonsense"), "");
        assert_eq!(ask(&[b'x'; HEAD_LIMIT + 1]), "");
    }
}
