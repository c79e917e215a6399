//! How many requests may wait in threads at once.

use super::*;
use std::sync::{Arc, Barrier, mpsc};

#[test]
fn a_request_that_waits_in_its_thread_keeps_no_other_waiting() {
    // More than actix has for one worker where there are two cores.
    const WAITING: usize = 300;
    let met = Arc::new(Barrier::new(WAITING));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits {
        workers: 1,
        connections: WAITING,
        patience: Duration::from_secs(30),
        grace_seconds: 0,
    };
    let wait = move || {
        let met = met.clone();
        async move {
            actix_web::web::block(move || met.wait()).await.ok();
            actix_web::HttpResponse::Ok().finish()
        }
    };
    let app = move || App::new().default_service(actix_web::web::to(wait.clone()));
    let (handle, given) = mpsc::channel();
    let server = std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async {
            let server = serve(listener, &limits, app).unwrap();
            handle.send(server.handle()).unwrap();
            server.await.unwrap();
        });
    });
    let handle = given.recv().unwrap();
    let mut clients: Vec<_> = (0..WAITING)
        .map(|_| {
            let mut client = std::net::TcpStream::connect(address).unwrap();
            client
                .set_read_timeout(Some(Duration::from_secs(60)))
                .unwrap();
            let head = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
            std::io::Write::write_all(&mut client, head).unwrap();
            client
        })
        .collect();
    for client in &mut clients {
        let mut answer = [0; 12];
        std::io::Read::read_exact(client, &mut answer).expect("all of them run at once");
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    drop(clients);
    futures_util::future::FutureExt::now_or_never(handle.stop(false));
    server.join().unwrap();
}
