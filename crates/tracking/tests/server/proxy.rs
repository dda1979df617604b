//! A proxy in front of a server that makes trouble: each kind of call goes wrong in the same way
//! the first time it is made.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// This answer, without the server's hearing of it.
    Answer(&'static str),
    /// The connection is reset before the request is read.
    Reset,
    /// The server does what it is asked to, but the connection closes before the answer.
    Lost,
    /// The server does what it is asked to, and half its answer arrives.
    Half,
    /// The server does what it is asked to, and half its answer arrives, which does not say how long it is.
    Cut,
    /// The server does what it is asked to, half its answer arrives, and nothing more.
    Stall,
    /// No more than the head of the request is read, and nothing comes back.
    Hang,
}

/// How long nothing comes: longer than anyone waits.
const SILENCE: Duration = Duration::from_secs(60);

/// A running proxy; it ends with the process.
pub struct Proxy {
    pub port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    trouble: Option<Trouble>,
    /// What a call's name begins with that goes wrong.
    calls: &'static str,
    /// The calls that went wrong.
    hit: BTreeSet<String>,
}

impl Proxy {
    pub fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client that went away is no failure of the proxy's.
                std::thread::spawn(move || pass_on(client, server, &state).ok());
            }
        });
        Self { port, state }
    }

    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on every kind of call goes wrong once.
    pub fn make(&self, trouble: Trouble) {
        self.make_with("", trouble);
    }

    /// The same of calls whose name begins so.
    pub fn make_with(&self, calls: &'static str, trouble: Trouble) {
        *self.state.lock().expect("no panic") =
            State { trouble: Some(trouble), calls, hit: BTreeSet::new() };
    }

    /// From now on nothing goes wrong; gives the calls that did.
    pub fn calm(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.state.lock().expect("no panic")).hit
    }
}

fn pass_on(mut client: TcpStream, server: u16, state: &Mutex<State>) -> std::io::Result<()> {
    let call = call(&peek_head(&client)?);
    let trouble = {
        let mut state = state.lock().expect("no panic");
        let trouble = state.trouble;
        trouble.filter(|_| call.starts_with(state.calls) && state.hit.insert(call))
    };
    match trouble {
        // With what it sent still unread, closing resets the connection.
        Some(Trouble::Reset) => return Ok(()),
        Some(Trouble::Hang) => {
            std::thread::sleep(SILENCE);
            return Ok(());
        }
        _ => {}
    }
    let (head, mut body) = read_head(&mut client)?;
    read_body(&mut client, &head, &mut body)?;
    if let Some(Trouble::Answer(answer)) = trouble {
        return client.write_all(answer.as_bytes());
    }
    let mut server = TcpStream::connect(("127.0.0.1", server))?;
    // One request per connection: its answer ends where the connection does.
    let mut request = head.replacen("\r\n", "\r\nconnection: close\r\n", 1).into_bytes();
    request.append(&mut body);
    server.write_all(&request)?;
    let mut answer = Vec::new();
    match server.read_to_end(&mut answer) {
        // A server that answers without having read the body resets the connection behind its answer.
        Err(error)
            if error.kind() == ErrorKind::ConnectionReset
                && answer.windows(4).any(|end| end == b"\r\n\r\n") => {}
        read => drop(read?),
    }
    match trouble {
        Some(Trouble::Lost) => Ok(()),
        Some(Trouble::Half) => client.write_all(&answer[..answer.len() - 2]),
        Some(Trouble::Cut) => client.write_all(&without_length(&answer[..answer.len() - 2])),
        Some(Trouble::Stall) => {
            client.write_all(&answer[..answer.len() - 2])?;
            std::thread::sleep(SILENCE);
            Ok(())
        }
        _ => client.write_all(&answer),
    }
}

/// The head, which stays to be read.
fn peek_head(client: &TcpStream) -> std::io::Result<String> {
    let mut buffer = [0; 65536];
    loop {
        let length = client.peek(&mut buffer)?;
        let there = &buffer[..length];
        if let Some(end) = there.windows(4).position(|w| w == b"\r\n\r\n") {
            return Ok(String::from_utf8_lossy(&there[..end]).into_owned());
        }
        if there.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An answer that ends where the connection does.
fn without_length(answer: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(answer).into_owned();
    let of_length = |line: &&str| !line.to_ascii_lowercase().starts_with("content-length:");
    text.split("\r\n").filter(of_length).collect::<Vec<_>>().join("\r\n").into_bytes()
}

/// The head with its empty line, and what was read after it.
fn read_head(client: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), body));
        }
        match client.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => bytes.extend(&buffer[..n]),
        }
    }
}

fn read_body(client: &mut TcpStream, head: &str, body: &mut Vec<u8>) -> std::io::Result<()> {
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: Option<usize> = length.map(|text| text.trim().parse().expect("a length"));
    let chunked = head.contains("transfer-encoding: chunked");
    let mut buffer = [0; 65536];
    while length.map_or(chunked && !body.ends_with(b"0\r\n\r\n"), |length| body.len() < length) {
        match client.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => body.extend(&buffer[..n]),
        }
    }
    Ok(())
}

/// Method and path up to the first part that is an id or a file.
fn call(head: &str) -> String {
    let mut words = head.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    if path.starts_with("/blobs/") {
        let part = query.split('&').find_map(|part| part.strip_prefix("comp="));
        return format!("{method} {}", part.unwrap_or("blob"));
    }
    let path = match path.rsplit_once("/api/2.0/") {
        Some((_, call)) => call.trim_start_matches("mlflow/"),
        // Of Azure: the last parts tell what is asked.
        None if path.matches('/').count() > 3 => {
            let parts: Vec<_> = path.rsplit('/').take(2).collect();
            let of_run = parts[1].starts_with("dcid.");
            return format!("{method} {}/{}", if of_run { "RUN" } else { parts[1] }, parts[0]);
        }
        None => path,
    };
    let parts: Vec<_> = path.split('/').take(2).filter(|part| !part.starts_with("m-")).collect();
    format!("{method} {}", parts.join("/"))
}
