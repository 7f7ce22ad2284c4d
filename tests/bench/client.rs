//! A lean HTTP client: a thread, a keep-alive connection and no library, so that the load generator, which runs on the
//! same cores as what it loads, takes as little of them as can be.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// One connection, with the refresh token of one session.
pub struct HttpClient {
    stream: TcpStream,
    address: String,
    token: String,
    buffer: Vec<u8>,
}

/// What of an answer is looked at.
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Where the body is in the buffer.
    body: std::ops::Range<usize>,
}

impl HttpClient {
    /// Connects; a lost answer fails the run instead of holding it up.
    pub fn connect(address: &str, token: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the service");
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("time-out");
        Self { stream, address: address.to_owned(), token: token.to_owned(), buffer: vec![0; 16 * 1024] }
    }

    /// Rotates the session and keeps the new token.
    pub fn refresh(&mut self) {
        let request = refresh_request(&self.address, &self.token);
        self.stream.write_all(request.as_bytes()).expect("request");
        let answer = self.read();
        let body = std::str::from_utf8(&self.buffer[answer.body]).expect("UTF-8");
        assert_eq!(answer.status, 200, "{body}");
        let (_, rest) = body.split_once("\"refreshToken\":\"").expect("a refresh token");
        self.token.clear();
        self.token.push_str(rest.split('"').next().expect("a string"));
    }

    /// Sends a request as it is, and reads the answer.
    pub fn send(&mut self, request: &str) -> u16 {
        self.stream.write_all(request.as_bytes()).expect("request");
        self.read().status
    }

    /// Sends many at once, and reads the answers.
    pub fn send_pipelined(&mut self, requests: &str, count: usize, expected: u16) {
        let mut stream = self.stream.try_clone().expect("a second handle");
        let requests = requests.to_owned();
        let writer = std::thread::spawn(move || stream.write_all(requests.as_bytes()).expect("requests"));
        let mut held = Vec::with_capacity(64 * 1024);
        let mut seen = 0;
        while seen < count {
            match complete(&held) {
                Some(answer) => {
                    assert_eq!(answer.status, expected);
                    seen += 1;
                    held.drain(..answer.body.end);
                }
                None => {
                    let length = self.stream.read(&mut self.buffer).expect("answers");
                    assert_ne!(length, 0, "the service closed the connection");
                    held.extend_from_slice(&self.buffer[..length]);
                }
            }
        }
        writer.join().expect("writer");
    }

    fn read(&mut self) -> Answer {
        let mut length = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[length..]).expect("an answer");
            assert_ne!(read, 0, "the service closed the connection");
            length += read;
            if let Some(answer) = complete(&self.buffer[..length]) {
                return answer;
            }
        }
    }
}

/// The request that rotates with that token.
pub fn refresh_request(address: &str, token: &str) -> String {
    let body = format!("{{\"refreshToken\":\"{token}\"}}");
    format!(
        "POST /api/auth/refresh HTTP/1.1\r\nhost: {address}\r\nuser-agent: {USER_AGENT}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// As long as browsers' are.
pub const USER_AGENT: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36";

/// The first answer in these bytes, when it is all there. Every answer of the service has a Content-Length.
fn complete(bytes: &[u8]) -> Option<Answer> {
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&bytes[..head]).expect("headers");
    let status = text.get(9..12).and_then(|status| status.parse().ok()).expect("a status line");
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().expect("a length"))
    });
    let body = head + 4..head + 4 + length.expect("Content-Length");
    (bytes.len() >= body.end).then_some(Answer { status, body })
}

/// Each client refreshes without pause until then; how long each refresh took.
pub fn closed_loop(clients: &mut [HttpClient], time: Duration) -> Vec<Duration> {
    let end = Instant::now() + time;
    in_threads(clients, |_, client| {
        let mut times = Vec::new();
        loop {
            let sent = Instant::now();
            if sent >= end {
                return times;
            }
            client.refresh();
            times.push(sent.elapsed());
        }
    })
}

/// Refreshes arrive at that rate whether or not earlier ones are answered, at random moments (Poisson). The time of each
/// begins when it was due, not when a client came to send it: a stall is suffered by all who come while it lasts.
pub fn open_loop(clients: &mut [HttpClient], rate: f64, time: Duration) -> Vec<Duration> {
    let start = Instant::now() + Duration::from_millis(50);
    let mean = clients.len() as f64 / rate;
    in_threads(clients, |number, client| {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number as u64 + 1);
        let (mut due, mut times) = (Duration::ZERO, Vec::new());
        loop {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let uniform = (random >> 11) as f64 / (1_u64 << 53) as f64;
            due += Duration::from_secs_f64(-mean * (1.0 - uniform).ln());
            if due >= time {
                return times;
            }
            std::thread::sleep((start + due).saturating_duration_since(Instant::now()));
            client.refresh();
            times.push((start + due).elapsed());
        }
    })
}

fn in_threads(
    clients: &mut [HttpClient],
    work: impl Fn(usize, &mut HttpClient) -> Vec<Duration> + Sync,
) -> Vec<Duration> {
    let work = &work;
    let mut times = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            clients.iter_mut().enumerate().map(|(number, client)| scope.spawn(move || work(number, client))).collect();
        for thread in threads {
            times.extend(thread.join().expect("a client"));
        }
    });
    times.sort_unstable();
    times
}

/// A share of sorted times lies below it, in milliseconds.
pub fn percentile(times: &[Duration], share: f64) -> f64 {
    times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
}
