//! Connections: how much of what a client sends is read, and when.
//!
//! actix reads ahead. It parses everything that has arrived into a queue of requests before it checks the length of the
//! queue. It takes the body of a waiting request for one that was left unread. After an early answer it reads the rest of
//! a chunked body for as long as it comes. So the connections are ours, and give actix one request at a time: while it is
//! answered, nothing after it is read. A head must be complete in time, and an answer must be taken in time. After the last
//! answer, further bytes are thrown away only for a moment.

use crate::api::http::taking::Taking;
use actix_http::error::DispatchError;
use actix_http::{HttpService, Protocol, Request};
use actix_service::{ServiceFactoryExt, apply_fn_factory, map_config};
use actix_web::body::MessageBody;
use actix_web::dev::{
    AppConfig, Extensions, Payload, Server, Service, ServiceFactory, ServiceRequest,
    ServiceResponse, fn_service,
};
use actix_web::http::ConnectionType;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::{App, Error};
use rustix::net::sockopt::{set_socket_linger, set_socket_send_buffer_size, set_tcp_user_timeout};
use rustix::net::{RecvFlags, recv};
use std::cell::RefCell;
use std::io;
use std::net::TcpListener;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// Bytes that are read at once. Only the parser knows where a chunked body ends, so as many further requests may wait
/// behind it as fit in here; each costs some KiB.
const PIECE_BYTES: usize = 2048;
/// Bytes of answers that wait for a client to take them.
const WRITE_BUFFER_BYTES: usize = 32 * 1024;
/// Bytes of answers that the system keeps for a client, too. They count as taken.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// How many unwanted pieces are read before a connection is closed.
const UNREAD_PIECES: usize = 128;
/// How long a client may go on sending after its last answer. If the connection were closed sooner, the client's system
/// might throw the answer away.
const LINGER: Duration = Duration::from_secs(1);
/// How often it is read from meanwhile before others have their turn.
const DRAINED_AT_ONCE: usize = 16;

/// The limits of a server for its clients.
pub(crate) struct Limits {
    pub(crate) workers: usize,
    /// Most connections at once; further ones wait.
    pub(crate) connections: usize,
    /// How long a client may take for each part of a request, and to take the answer, beside the time that a slow line
    /// needs for it.
    pub(crate) patience: Duration,
    /// How long open requests may take after the service was asked to stop.
    pub(crate) grace_seconds: u64,
}

/// Serves an application on a listener until the server's handle stops it.
pub(crate) fn serve<F, T, B>(listener: TcpListener, limits: &Limits, app: F) -> io::Result<Server>
where
    F: Fn() -> App<T> + Clone + Send + 'static,
    T: ServiceFactory<
            ServiceRequest,
            Config = (),
            Response = ServiceResponse<B>,
            Error = Error,
            InitError = (),
        > + 'static,
    T::Future: 'static,
    B: MessageBody + 'static,
{
    let patience = limits.patience;
    bound_unread(&listener, patience)?;
    let connections = limits.connections.div_ceil(limits.workers);
    let builder = Server::build()
        .workers(limits.workers)
        .max_concurrent_connections(connections)
        // A request may wait in its thread. actix would share 512 among all cores, so that on a machine with many a few
        // that wait would hold up all others.
        .worker_max_blocking_threads(connections.max(1))
        .shutdown_timeout(limits.grace_seconds)
        .disable_signals();
    let stopping = builder.graceful_shutdown_signal();
    let services = move || {
        let stopping = stopping.clone();
        let app = apply_fn_factory(app(), in_turn);
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .client_request_timeout(patience)
            .client_disconnect_timeout(LINGER)
            .h1_write_buffer_size(WRITE_BUFFER_BYTES)
            .on_connect_ext(|connection: &Connection, data: &mut Extensions| {
                data.insert(connection.line.clone());
            })
            .finish(map_config(app, |()| AppConfig::default()));
        fn_service(move |socket: TcpStream| async move {
            let peer = socket.peer_addr().ok();
            let connection = Connection::new(socket, patience);
            Ok::<_, DispatchError>((connection, Protocol::Http1, peer))
        })
        .and_then(http)
    };
    Ok(builder.listen("http", listener, services)?.run())
}

/// Has the system keep little of an answer, and end a connection whose client takes nothing of it for this long.
/// Connections inherit both from their listener.
fn bound_unread(listener: &TcpListener, patience: Duration) -> io::Result<()> {
    let milliseconds = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    set_socket_send_buffer_size(listener, SEND_BUFFER_BYTES)?;
    Ok(set_tcp_user_timeout(listener, milliseconds)?)
}

/// Answers a request while its connection waits. If the announced body was not read completely, the answer is the last
/// one of the connection.
fn in_turn<S, B>(
    mut request: Request,
    app: &S,
) -> impl Future<Output = Result<ServiceResponse<B>, Error>> + use<S, B>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = Error>,
{
    let line = request.conn_data::<Line>().cloned().unwrap_or_default();
    let has_body = !matches!(request.payload(), Payload::None);
    line.begin(if has_body { length(&request) } else { Some(0) });
    let answering = app.call(request);
    async move {
        let mut answer = answering.await;
        if let (Heard::InPart, Ok(answer)) = (line.end(), &mut answer) {
            let head = answer.response_mut().head_mut();
            head.set_connection_type(ConnectionType::Close);
        }
        answer
    }
}

/// How long a body is; one in chunks does not say.
fn length(request: &Request) -> Option<u64> {
    let length = request.head().headers().get(CONTENT_LENGTH)?;
    length.to_str().ok()?.trim().parse().ok()
}

/// State that the handler of a request shares with its connection.
#[derive(Clone, Default)]
pub(crate) struct Line(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    phase: Phase,
    heard: Heard,
    head: Head,
    /// Which request of the connection this is.
    number: u64,
    /// Bytes of the body that the parser has not got; none says how many those of a chunked one are.
    body: Option<u64>,
    /// Woken when there is something to read again.
    reader: Option<Waker>,
    /// The connection ends as soon as its client is gone.
    is_watched: bool,
    /// An answer was broken off, and no client may take it for whole.
    is_broken: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// Ready for the next request.
    #[default]
    Head,
    /// A request is being answered.
    Answer,
    /// A request is being answered, and its handler reads the body.
    Body,
    /// The last answer was given.
    Over,
}

/// How much of the next head the parser has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Head {
    #[default]
    Nothing,
    /// Empty lines, which do not count.
    Blank,
    /// The last line is not empty so far, ...
    InLine,
    /// ... or has only begun, and is the end if it is empty.
    AtLine,
}

/// How much was read of the body of a request.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Heard {
    #[default]
    All,
    InPart,
}

impl Line {
    fn begin(&self, body: Option<u64>) {
        let mut state = self.0.borrow_mut();
        state.heard = match body {
            Some(0) => Heard::All,
            _ => Heard::InPart,
        };
        state.body = body;
        state.number += 1;
        drop(state);
        self.enter(Phase::Answer);
    }

    /// The handler wants the body.
    pub(crate) fn begin_body(&self) {
        self.enter(Phase::Body);
    }

    /// The handler has all of the body.
    pub(crate) fn end_body(&self) {
        self.0.borrow_mut().heard = Heard::All;
        self.enter(Phase::Answer);
    }

    /// Ends the connection, with its handler, as soon as the client closes it. Otherwise that is seen only when the next
    /// request is read, or when an answer cannot be written.
    pub(crate) fn watch(&self) -> Watch {
        let mut state = self.0.borrow_mut();
        state.is_watched = true;
        state.wake();
        Watch(self.clone())
    }

    /// The answer ends before its end.
    pub(crate) fn break_off(&self) {
        self.0.borrow_mut().is_broken = true;
    }

    fn end(&self) -> Heard {
        let heard = self.0.borrow().heard;
        self.enter(match heard {
            Heard::All => Phase::Head,
            Heard::InPart => Phase::Over,
        });
        heard
    }

    fn enter(&self, phase: Phase) {
        let mut state = self.0.borrow_mut();
        // A request that had been read already may still be answered then.
        if state.phase != Phase::Over {
            state.phase = phase;
            state.head = Head::Nothing;
        }
        if state.phase != Phase::Answer || state.is_watched {
            state.wake();
        }
    }
}

/// Held while a client is watched.
pub(crate) struct Watch(Line);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.0.borrow_mut().is_watched = false;
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// How many of these bytes belong to the request that is read, and whether it can be handled then.
    fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        match (self.phase, &mut self.body) {
            (Phase::Body, Some(left)) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX);
                let taken = bytes.len().min(most);
                *left -= taken as u64;
                (taken, *left == 0)
            }
            (Phase::Body, None) => (bytes.len(), false),
            _ => match bytes.iter().position(|byte| self.head.ends_with(*byte)) {
                Some(last) => (last + 1, true),
                None => (bytes.len(), false),
            },
        }
    }
}

impl Head {
    fn ends_with(&mut self, byte: u8) -> bool {
        let has_ended = *self == Self::AtLine && byte == b'\n';
        *self = match (*self, byte) {
            (Self::AtLine, b'\n') => Self::Nothing,
            (Self::Nothing | Self::Blank, b'\r' | b'\n') => Self::Blank,
            (Self::InLine, b'\n') => Self::AtLine,
            (head, b'\r') => head,
            _ => Self::InLine,
        };
        has_ended
    }
}

/// A client's connection.
struct Connection {
    socket: TcpStream,
    line: Line,
    patience: Duration,
    /// The part of the space that was read and not handed on.
    held: Range<usize>,
    space: Box<[u8; PIECE_BYTES]>,
    /// How many bytes may be handed on before the other side has its turn to look at it.
    left: usize,
    /// The client does not take what we write.
    is_full: bool,
    /// How long the client may take in a phase, once it is waited for.
    deadline: Option<(Phase, Pin<Box<Sleep>>)>,
    taking: Taking,
}

impl Connection {
    fn new(socket: TcpStream, patience: Duration) -> Self {
        Self {
            socket,
            line: Line::default(),
            patience,
            held: 0..0,
            space: Box::new([0; PIECE_BYTES]),
            left: PIECE_BYTES,
            is_full: false,
            deadline: None,
            taking: Taking::of(0),
        }
    }

    /// Hands on what there is of a request, a piece at most; nothing, when ready, is the end of all.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            self.left = PIECE_BYTES;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.held.is_empty() {
            let mut piece = ReadBuf::new(&mut self.space[..]);
            let polled = Pin::new(&mut self.socket).poll_read(cx, &mut piece);
            self.held = 0..piece.filled().len();
            if polled.is_pending() {
                self.left = PIECE_BYTES;
            }
            ready!(polled)?;
        }
        let held = &self.space[self.held.clone()];
        let most = held.len().min(buffer.remaining());
        let (taken, is_whole) = self.line.0.borrow_mut().take(&held[..most]);
        buffer.put_slice(&held[..taken]);
        self.held.start += taken;
        self.left = if is_whole {
            0
        } else {
            self.left.saturating_sub(taken)
        };
        Poll::Ready(Ok(()))
    }

    /// Fails once the client has closed the connection. Nothing is read.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            return Poll::Pending;
        }
        let mut space = [0; 1];
        match self.socket.poll_peek(cx, &mut ReadBuf::new(&mut space)) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    }

    /// Throws away what has come, but no more than some of it: a client may send as fast as it is read. Ready at the end
    /// of all that ever comes.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; 8192];
        for _ in 0..DRAINED_AT_ONCE {
            let mut piece = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether a phase has lasted for so long since this was first asked in it.
    fn is_late(&mut self, cx: &mut Context<'_>, phase: Phase, patience: Duration) -> bool {
        let timer = match &mut self.deadline {
            Some((of, timer)) if *of == phase => timer,
            other => {
                let timer = Box::pin(sleep(patience));
                &mut other.insert((phase, timer)).1
            }
        };
        timer.as_mut().poll(cx).is_ready()
    }
}

impl AsyncRead for Connection {
    /// Where nothing is put into the buffer, there is no more to read, and actix closes the connection.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (phase, body, is_watched) = {
            let mut state = this.line.0.borrow_mut();
            state.reader = Some(cx.waker().clone());
            (state.phase, state.body, state.is_watched)
        };
        if is_watched
            && phase != Phase::Body
            && let Poll::Ready(Err(gone)) = this.poll_gone(cx)
        {
            return Poll::Ready(Err(gone));
        }
        let polled = match phase {
            _ if this.is_full => Poll::Pending,
            Phase::Answer => Poll::Pending,
            Phase::Body if body == Some(0) => Poll::Pending,
            Phase::Over => {
                this.held = 0..0;
                // Its deadline holds however often and however fast the client sends something more. It comes first: to
                // read much may use up what tokio lets a task do in one go, and then no timer is ready.
                return if this.is_late(cx, phase, LINGER) || this.poll_drain(cx).is_ready() {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                };
            }
            Phase::Head | Phase::Body => this.poll_piece(cx, buffer),
        };
        let has_half = this.line.0.borrow().head != Head::Nothing;
        if phase != Phase::Head || !has_half {
            // The handler of a request knows how long its body may take.
            this.deadline = None;
            return polled;
        }
        match polled {
            Poll::Pending if this.is_late(cx, phase, this.patience) => Poll::Ready(Ok(())),
            polled => polled,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.socket).poll_write(cx, bytes);
        let was_full = std::mem::replace(&mut this.is_full, polled.is_pending());
        if was_full && !this.is_full {
            this.line.0.borrow_mut().wake();
        }
        let number = this.line.0.borrow().number;
        this.taking.begin(number);
        match polled {
            Poll::Pending if this.taking.is_late(cx, this.patience) => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Ready(Ok(taken)) => {
                this.taking.has_taken(taken);
                Poll::Ready(Ok(taken))
            }
            polled => polled,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

impl Drop for Connection {
    /// Reads what has arrived meanwhile, within bounds. If bytes stay unread, the system answers them with a reset, and
    /// that may overtake the answer.
    fn drop(&mut self) {
        if self.line.0.borrow().is_broken {
            // It ends with a reset: an answer without a length would be whole where the connection ends well.
            set_socket_linger(&self.socket, Some(Duration::ZERO)).ok();
            return;
        }
        for _ in 0..UNREAD_PIECES {
            match recv(&self.socket, &mut self.space[..], RecvFlags::DONTWAIT) {
                Ok((read, _)) if read > 0 => {}
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod threads;
