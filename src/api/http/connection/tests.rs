use super::*;
use std::future::poll_fn;

#[test]
fn the_parser_gets_one_request_at_a_time() {
    let mut state = State::default();
    let first = "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let both = format!("{first}GET / HTTP/1.1\n\nG");
    assert_eq!(state.take(both.as_bytes()), (first.len(), true));
    assert_eq!(state.take(&both.as_bytes()[first.len()..]), (16, true));
    assert_eq!(state.head, Head::Nothing);
    // What comes in pieces ends where it ends.
    for byte in &first.as_bytes()[..first.len() - 1] {
        assert_eq!(state.take(&[*byte]), (1, false));
    }
    assert_eq!(state.take(b"\nG"), (1, true));
    assert_eq!(state.take(b"\r\n"), (2, false));
    assert_ne!(state.head, Head::Nothing);

    (state.phase, state.body) = (Phase::Body, Some(5));
    assert_eq!(state.take(b"123"), (3, false));
    assert_eq!(state.take(b"45GET"), (2, true));
    (state.phase, state.body) = (Phase::Body, None);
    assert_eq!(state.take(b"0\r\n\r\nGET"), (8, false));
}

#[tokio::test(start_paused = true)]
async fn an_answer_must_be_taken_in_the_time_that_a_slow_line_needs() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let patience = Duration::from_secs(30);
    let mut connection = Connection::new(socket, patience);
    let started = tokio::time::Instant::now();
    let error = loop {
        let written = poll_fn(|cx| Pin::new(&mut connection).poll_write(cx, &[0; 8192]));
        if let Err(error) = written.await {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let slow = connection.taking.slow_line();
    let late = started.elapsed().saturating_sub(patience + slow);
    assert!(
        slow > Duration::ZERO && late < Duration::from_secs(1),
        "{slow:?} {late:?}"
    );
    drop(client);
}

#[tokio::test]
async fn who_sends_without_end_is_cut_off_however_fast() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let talker = std::thread::spawn(move || {
        let mut talker = std::net::TcpStream::connect(address).unwrap();
        let much = vec![0; 1 << 20];
        while std::io::Write::write_all(&mut talker, &much).is_ok() {}
    });
    let (socket, _) = listener.accept().await.unwrap();
    let mut connection = Connection::new(socket, Duration::from_secs(30));
    connection.line.0.borrow_mut().phase = Phase::Over;
    let started = tokio::time::Instant::now();
    let mut space = [0; 64];
    let mut buffer = ReadBuf::new(&mut space);
    let ended = poll_fn(|cx| Pin::new(&mut connection).poll_read(cx, &mut buffer));
    tokio::time::timeout(LINGER * 10, ended)
        .await
        .expect("it is cut off")
        .unwrap();
    assert!(started.elapsed() >= LINGER && started.elapsed() < LINGER * 5);
    drop(connection);
    talker.join().unwrap();
}
