//! Clients that mean harm with their connections: slow ones, many, endless headers, requests without reading the answers.
//! Everything they can take of the service is bounded, and everybody else is served meanwhile.

use auth_sessions_tests::{Server, TestDb, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BODY: &str =
    "POST /api/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n";

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address()).await.expect("connects")
}

/// Sends a byte again and again, until the server has closed the connection; returns what it said.
async fn drip(mut connection: TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        tokio::select! {
            read = connection.read(&mut buffer) => match read {
                Ok(count @ 1..) => answer.extend_from_slice(&buffer[..count]),
                Ok(0) | Err(_) => return String::from_utf8_lossy(&answer).into_owned(),
            },
            () = tokio::time::sleep(std::time::Duration::from_millis(100)) => {
                let _ = connection.write_all(b"x").await;
            }
        }
    }
}

/// What must come about, and not take for ever.
async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(std::time::Duration::from_secs(30), what).await.expect("it takes more than 30 seconds")
}

/// A server with few places and little patience.
async fn impatient(db: &TestDb, settings: &[(&str, &str)]) -> Server {
    Server::start(db, &[&[("CLIENT_TIMEOUT_SECONDS", "1")], settings].concat()).await
}

#[tokio::test]
async fn headers_and_bodies_that_come_byte_by_byte_are_given_up() {
    let db = TestDb::create().await;
    let server = impatient(&db, &[]).await;
    let api = server.api();
    let session = api.signup("ada@example.org").await;

    let mut slow = Vec::new();
    for n in 0..100 {
        let mut connection = connect(&server).await;
        let begin = match n % 3 {
            0 => "",
            1 => "GET /api/auth/me HTTP/1.1\r\nhost: x\r\nx-slow: ",
            _ => BODY,
        };
        connection.write_all(begin.as_bytes()).await.expect("taken");
        slow.push((n % 3, tokio::spawn(drip(connection))));
    }
    // Meanwhile everybody else is served.
    let mut token = session.refresh_token;
    for _ in 0..20 {
        token = api.refresh(&token).await.expect(200).session().refresh_token;
    }
    for (kind, connection) in slow {
        let answer = in_time(connection).await.expect("a task");
        match kind {
            // 408 would be an answer to a request, and there is none yet.
            0 | 1 => assert_eq!(answer, ""),
            _ => {
                assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
                assert!(answer.contains(r#""code":"request_timeout""#), "{answer}");
            }
        }
    }
}

#[tokio::test]
async fn who_waits_for_a_place_gets_it_when_a_slow_client_is_given_up() {
    let db = TestDb::create().await;
    let server = impatient(&db, &[("MAX_CONNECTIONS", "4")]).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut connection = connect(&server).await;
        connection.write_all(b"GET /health/live HTTP/1.1\r\n").await.expect("taken");
        held.push(tokio::spawn(drip(connection)));
    }
    in_time(server.api().get("/health/live", "")).await.expect(200);
    for connection in held {
        assert_eq!(in_time(connection).await.expect("a task"), "");
    }
}

#[tokio::test]
async fn one_network_cannot_take_every_place() {
    let db = TestDb::create().await;
    // The tests' own client, at 127.0.0.1, is the proxy; the crowd comes from 127.0.1.0/24.
    let server = Server::start(&db, &[("MAX_CONNECTIONS_PER_NETWORK", "3"), ("TRUSTED_PROXIES", "127.0.0.1")]).await;
    let crowd = async |last: u8| {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(std::net::SocketAddr::from(([127, 0, 1, last], 0))).expect("an address of loopback");
        let mut connection = socket.connect(server.address().parse().expect("an address")).await.expect("connects");
        let _ = connection.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut buffer = [0; 12];
        let answered = connection.read_exact(&mut buffer).await.is_ok() && &buffer == b"HTTP/1.1 200";
        answered.then_some(connection)
    };
    let mut kept = Vec::new();
    for last in 1..=3 {
        kept.push(crowd(last).await.expect("a place"));
    }
    assert!(crowd(4).await.is_none(), "a fourth of one network");
    // Trusted proxies are many people's.
    for _ in 0..6 {
        server.api().get("/health/live", "").await.expect(200);
    }
    kept.pop();
    eventually("the place of the one that left is free", async || crowd(5).await.is_some()).await;
}

#[tokio::test]
async fn answers_that_nobody_reads_do_not_hold_a_connection() {
    let db = TestDb::create().await;
    let server = impatient(&db, &[("MAX_CONNECTIONS", "1")]).await;
    let mut connection = connect(&server).await;
    // More than the kernel's buffers of both ends hold.
    let request = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    connection.write_all(request.as_bytes()).await.expect("taken");
    // The only place is free again although that client neither reads nor leaves.
    in_time(server.api().get("/health/live", "")).await.expect(200);
    drop(connection);
}

#[tokio::test]
async fn a_hundred_thousand_bytes_of_headers_are_refused_and_cost_nobody_else() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let long = "y".repeat(100_000);
    let many: String = (0..5_000).map(|n| format!("x-{n}: {n}\r\n")).collect();
    for request in [
        format!("GET /health/live HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n"),
        format!("GET /health/live HTTP/1.1\r\nhost: x\r\ncookie: a={long}\r\n\r\n"),
        format!("GET /health/live HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {long}\r\n\r\n"),
        format!("GET /health/live?{long} HTTP/1.1\r\nhost: x\r\n\r\n"),
        format!("GET /health/live HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
        // Never ending: it is refused before it ends.
        format!("GET /health/live HTTP/1.1\r\nhost: x\r\nx: {long}"),
    ] {
        let mut connection = connect(&server).await;
        // The server may answer, and close, before it has read everything.
        let _ = connection.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        assert!(head.starts_with("HTTP/1.1 431 "), "{:?}: {answer:?}", &request[..60]);
        assert!(head.contains("content-type: application/problem+json"), "{answer}");
        assert!(body.contains(r#""code":"headers_too_large""#), "{answer}");
    }
    server.api().get("/health/live", "").await.expect(200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_each_on_its_own() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let session = server.api().signup("ada@example.org").await;
    let refresh = |id: &str, token: &str| {
        let body = format!(r#"{{"refreshToken":"{token}"}}"#);
        let length = body.len();
        format!(
            "POST /api/auth/refresh HTTP/1.1\r\nhost: x\r\nx-request-id: {id}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
    };
    // A refresh, its retry, garbage, a request without a credential, and the end.
    let requests = [
        refresh("number-1", &session.refresh_token),
        refresh("number-2", &session.refresh_token),
        refresh("number-3", "asr_garbage_garbage"),
        "GET /api/auth/me HTTP/1.1\r\nhost: x\r\nx-request-id: number-4\r\nconnection: close\r\n\r\n".to_owned(),
        refresh("number-5", &session.refresh_token),
    ];
    let mut connection = connect(&server).await;
    connection.write_all(requests.concat().as_bytes()).await.expect("taken");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.expect("answers");
    let answers: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).collect();
    let statuses: Vec<&str> = answers.iter().map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "200", "401", "401"], "and nothing after connection: close");
    for (n, answer) in answers.iter().enumerate() {
        assert!(answer.contains(&format!("x-request-id: number-{}\r\n", n + 1)), "{answer}");
    }
    let token = |answer: &str| answer.split_once("\"refreshToken\":\"").expect("a token").1[..122].to_owned();
    assert_eq!(token(answers[0]), token(answers[1]), "the same successor");
    server.api().refresh(&token(answers[0])).await.expect(200);
}
