//! A small HTTP server on a real socket: each request is answered by a closure and recorded.
//! It can cut a body short, which ready-made servers do not offer.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

#[derive(Debug, Clone, Default)]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    cut_after: Option<usize>,
}

impl Response {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends so many bytes of the body, then closes the connection.
    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.cut_after = Some(bytes);
        self
    }

    /// The content, or the part of it that a Range header asks for.
    pub fn ranged(request: &Request, content: &[u8]) -> Self {
        let range = request.header("range").and_then(|range| {
            range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        });
        match range {
            Some(start) if start < content.len() => Self::new(206)
                .header(
                    "Content-Range",
                    format!("bytes {start}-{}/{}", content.len() - 1, content.len()),
                )
                .body(&content[start..]),
            Some(_) => Self::new(416),
            None => Self::new(200).body(content),
        }
    }
}

pub struct Server {
    pub url: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(handler: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let (handler, seen) = (Arc::new(handler), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (handler, seen) = (handler.clone(), seen.clone());
                std::thread::spawn(move || answer(&stream, &*handler, &seen));
            }
        });
        Self { url, log }
    }

    /// Takes the requests received since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.log.lock().expect("no handler panicked"))
    }
}

/// An address where nothing listens.
pub fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("bound"))
}

fn answer(
    stream: &TcpStream,
    handler: &dyn Fn(&Request) -> Response,
    seen: &Mutex<Vec<Request>>,
) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let request = Request { method, path, headers };
    seen.lock().ok()?.push(request.clone());
    let response = handler(&request);

    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", response.status);
    for (name, value) in &response.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", response.body.len());
    let mut stream = stream;
    stream.write_all(head.as_bytes()).ok()?;
    if request.method != "HEAD" {
        let end = response.cut_after.unwrap_or(usize::MAX).min(response.body.len());
        stream.write_all(&response.body[..end]).ok()?;
    }
    stream.flush().ok()
}
