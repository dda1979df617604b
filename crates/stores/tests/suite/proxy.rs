//! A proxy in front of a server that makes trouble at chosen requests. Every connection carries one
//! request.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to a request instead of being passed on.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// An answer with this status.
    Status(u16),
    /// The connection ends without an answer.
    Reset,
    /// No answer for this long.
    Stall(Duration),
    /// It is passed on, and its answer is cut short.
    HalfAnswer,
    /// It is passed on after this long.
    Late(Duration),
}

/// The requests whose first line holds `target` are counted from 0; those in `at` are in trouble.
#[derive(Clone, Debug)]
pub struct Rule {
    pub target: &'static str,
    pub at: std::ops::Range<usize>,
    pub trouble: Trouble,
}

pub struct Proxy {
    pub port: u16,
    seen: Arc<Mutex<usize>>,
    under_way: Arc<UnderWay>,
}

/// Requests of the rule's kind that are not answered yet, and the most of them at a time.
#[derive(Default)]
struct UnderWay {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Proxy {
    pub fn start(upstream: u16, rule: Rule) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(Mutex::new(0));
        let counted = seen.clone();
        let under_way = Arc::<UnderWay>::default();
        let met = under_way.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (rule, counted, met) = (rule.clone(), counted.clone(), met.clone());
                std::thread::spawn(move || serve(client, upstream, &rule, &counted, &met));
            }
        });
        Proxy { port, seen, under_way }
    }

    /// The most requests of the rule's kind that were under way at a time.
    pub fn most(&self) -> usize {
        self.under_way.most.load(Ordering::SeqCst)
    }

    /// Requests of the rule's kind so far.
    pub fn seen(&self) -> usize {
        *self.seen.lock().expect("no panic")
    }
}

fn serve(
    mut client: TcpStream,
    upstream: u16,
    rule: &Rule,
    seen: &Mutex<usize>,
    under_way: &UnderWay,
) -> Option<()> {
    let request = request(&mut client)?;
    let line = request.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut trouble = None;
    if String::from_utf8_lossy(line).contains(rule.target) {
        let mut seen = seen.lock().expect("no panic");
        trouble = rule.at.contains(&*seen).then_some(rule.trouble);
        *seen += 1;
    }
    match trouble {
        Some(Trouble::Status(status)) => {
            let head = format!(
                "HTTP/1.1 {status} Trouble\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            client.write_all(head.as_bytes()).ok()?;
        }
        Some(Trouble::Reset) => {}
        Some(Trouble::Stall(time)) => std::thread::sleep(time),
        Some(Trouble::HalfAnswer) => {
            let answer = pass_on(&request, upstream)?;
            client.write_all(&answer[..answer.len() / 2]).ok()?;
        }
        Some(Trouble::Late(time)) => {
            let now = under_way.now.fetch_add(1, Ordering::SeqCst) + 1;
            under_way.most.fetch_max(now, Ordering::SeqCst);
            std::thread::sleep(time);
            let answer = pass_on(&request, upstream);
            under_way.now.fetch_sub(1, Ordering::SeqCst);
            client.write_all(&answer?).ok()?;
        }
        None => client.write_all(&pass_on(&request, upstream)?).ok()?,
    }
    client.shutdown(Shutdown::Both).ok()
}

/// Head and body of one request, its connection marked to be closed.
fn request(client: &mut TcpStream) -> Option<Vec<u8>> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 1 << 14]);
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        let count = client.read(&mut buffer).ok().filter(|&count| count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap_or(0));
    while bytes.len() < head + 4 + length {
        let count = client.read(&mut buffer).ok().filter(|&count| count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
    }
    let mut request = bytes[..head].to_vec();
    request.extend_from_slice(b"\r\nconnection: close");
    request.extend_from_slice(&bytes[head..]);
    Some(request)
}

fn pass_on(request: &[u8], upstream: u16) -> Option<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", upstream)).ok()?;
    server.write_all(request).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    Some(answer)
}
