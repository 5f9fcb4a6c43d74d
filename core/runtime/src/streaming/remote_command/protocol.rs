//! How a client's streams are carried (pure): pieces in, input and answers out, and back.
//!
//! Over WebSocket each message begins with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the final `Status`, 4 terminal
//! size, and in v5 255, which closes the channel named by its payload. Over SPDY the client opens a stream for each,
//! whose header `streamType` says which it is.

use bytes::Bytes;
use serde_json::Value;

use super::super::Session;
use super::super::spdy::{Decoder, Encoder, Frame, REFUSED_STREAM, SpdyError};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// What the client gives the command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Bytes to read.
    Stdin(Bytes),
    /// There are no more.
    StdinClosed,
    /// The terminal's size, as JSON.
    Resize(Bytes),
}

/// What the command writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

/// What follows from a piece.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) inputs: Vec<Input>,
    /// To be sent to the client, in this order.
    pub(super) answers: Vec<Bytes>,
    /// The client ends the session.
    pub(super) left: bool,
}

/// Streams that there are to be beside that of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    /// Of an attached session it is not known whether it is a terminal's; then this stream may come later, or never.
    resize: bool,
}

impl Streams {
    pub(super) fn of(session: &Session) -> Self {
        match *session {
            Session::Exec { stdin, stdout, stderr, tty, .. } => {
                Streams { stdin, stdout, stderr, resize: tty }
            }
            Session::Attach { stdin, stdout, stderr, .. } => Streams { stdin, stdout, stderr, resize: false },
            Session::PortForward { .. } => {
                Streams { stdin: false, stdout: false, stderr: false, resize: false }
            }
        }
    }
}

/// Understands the client.
pub(super) enum Reader {
    /// Messages with a channel.
    Socket,
    /// Streams.
    Spdy(Box<SpdyReader>),
}

impl Reader {
    /// Whether all streams are there.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Reader::Socket => true,
            Reader::Spdy(spdy) => spdy.is_ready(),
        }
    }

    pub(super) fn step(&mut self, piece: &Bytes) -> Result<Step, SpdyError> {
        match self {
            Reader::Socket => Ok(message(piece)),
            Reader::Spdy(spdy) => spdy.step(piece),
        }
    }

    /// What writes to the streams that are open now.
    pub(super) fn writer(&self) -> Writer {
        match self {
            Reader::Socket => Writer::Socket,
            Reader::Spdy(spdy) => Writer::Spdy(spdy.open, spdy.tells_status),
        }
    }
}

fn message(piece: &Bytes) -> Step {
    let mut step = Step::default();
    let Some((channel, payload)) = piece.split_first() else { return step };
    let payload = piece.slice_ref(payload);
    match *channel {
        STDIN if !payload.is_empty() => step.inputs.push(Input::Stdin(payload)),
        RESIZE => step.inputs.push(Input::Resize(payload)),
        CLOSE if payload.first() == Some(&STDIN) => step.inputs.push(Input::StdinClosed),
        _ => {}
    }
    step
}

/// Numbers of the streams that are open.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Open {
    error: Option<u32>,
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    resize: Option<u32>,
}

/// A client that speaks SPDY.
pub(super) struct SpdyReader {
    decoder: Decoder,
    encoder: Encoder,
    wanted: Streams,
    open: Open,
    /// Whether the session ends with a `Status`; with its text otherwise.
    tells_status: bool,
}

impl SpdyReader {
    pub(super) fn new(wanted: Streams, tells_status: bool) -> Self {
        let (decoder, encoder) = (Decoder::new(), Encoder::default());
        SpdyReader { decoder, encoder, wanted, open: Open::default(), tells_status }
    }

    fn is_ready(&self) -> bool {
        let Streams { stdin, stdout, stderr, resize } = self.wanted;
        let is_there = |wanted: bool, open: Option<u32>| !wanted || open.is_some();
        self.open.error.is_some()
            && is_there(stdin, self.open.stdin)
            && is_there(stdout, self.open.stdout)
            && is_there(stderr, self.open.stderr)
            && is_there(resize, self.open.resize)
    }

    fn step(&mut self, piece: &[u8]) -> Result<Step, SpdyError> {
        let mut step = Step::default();
        self.decoder.push(piece);
        while let Some(frame) = self.decoder.next()? {
            match frame {
                Frame::Open { stream, headers } => step.answers.push(self.open(stream, &headers)),
                Frame::Data { stream, bytes, last } => {
                    let is_stdin = self.open.stdin == Some(stream);
                    if is_stdin && !bytes.is_empty() {
                        step.inputs.push(Input::Stdin(bytes));
                    } else if self.open.resize == Some(stream) && !bytes.is_empty() {
                        step.inputs.push(Input::Resize(bytes));
                    }
                    if is_stdin && last {
                        step.inputs.push(Input::StdinClosed);
                    }
                }
                Frame::Reset { stream } if self.open.stdin == Some(stream) => {
                    step.inputs.push(Input::StdinClosed);
                }
                Frame::Ping { id } => step.answers.push(Encoder::ping(id)),
                Frame::GoAway => step.left = true,
                Frame::Reset { .. } | Frame::Other => {}
            }
        }
        Ok(step)
    }

    /// Takes a stream that is wanted, once.
    fn open(&mut self, stream: u32, headers: &[(String, String)]) -> Bytes {
        let kind = headers.iter().find(|(name, _)| name == "streamtype").map(|(_, kind)| kind.as_str());
        let place = match kind {
            Some("error") => Some(&mut self.open.error),
            Some("stdin") if self.wanted.stdin => Some(&mut self.open.stdin),
            Some("stdout") if self.wanted.stdout => Some(&mut self.open.stdout),
            Some("stderr") if self.wanted.stderr => Some(&mut self.open.stderr),
            Some("resize") => Some(&mut self.open.resize),
            Some(_) | None => None,
        };
        match place.filter(|place| place.is_none()) {
            Some(place) => {
                *place = Some(stream);
                self.encoder.reply(stream)
            }
            None => Encoder::reset(stream, REFUSED_STREAM),
        }
    }
}

/// Writes to the client.
#[derive(Debug, Clone, Copy)]
pub(super) enum Writer {
    /// Messages with a channel.
    Socket,
    /// Streams; whether the last is a `Status`.
    Spdy(Open, bool),
}

fn channel(channel: u8, payload: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(payload.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(payload);
    bytes.into()
}

impl Writer {
    /// Output as a piece; `None` for output that nobody wants.
    pub(super) fn output(self, output: Output, payload: &[u8]) -> Option<Bytes> {
        match (self, output) {
            (Writer::Socket, Output::Stdout) => Some(channel(STDOUT, payload)),
            (Writer::Socket, Output::Stderr) => Some(channel(STDERR, payload)),
            (Writer::Spdy(open, _), Output::Stdout) => {
                open.stdout.map(|stream| Encoder::data(stream, payload, false))
            }
            (Writer::Spdy(open, _), Output::Stderr) => {
                open.stderr.map(|stream| Encoder::data(stream, payload, false))
            }
        }
    }

    /// The last pieces of a session that ends with a `Status`.
    pub(super) fn end(self, status: &Value) -> Vec<Bytes> {
        let Writer::Spdy(open, tells_status) = self else {
            return vec![channel(ERROR, status.to_string().as_bytes())];
        };
        let text = match tells_status {
            true => status.to_string(),
            false => status["message"].as_str().unwrap_or_default().to_owned(),
        };
        let outputs = [open.stdout, open.stderr].into_iter().flatten();
        let mut pieces: Vec<Bytes> = outputs.map(|stream| Encoder::data(stream, &[], true)).collect();
        pieces.extend(open.error.map(|stream| Encoder::data(stream, text.as_bytes(), true)));
        pieces
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::spdy::open_stream;
    use super::*;

    fn reader(stdin: bool, stderr: bool) -> SpdyReader {
        SpdyReader::new(Streams { stdin, stdout: true, stderr, resize: false }, true)
    }

    #[test]
    fn a_session_begins_when_all_streams_are_open_and_refuses_others() {
        let mut spdy = reader(true, false);
        for (number, kind) in [(1, "error"), (3, "stdin")] {
            let step = spdy.step(&open_stream(number == 1, number, kind)).unwrap();
            assert_eq!(step.answers.len(), 1);
            assert!(!spdy.is_ready());
        }
        spdy.step(&open_stream(false, 5, "stdout")).unwrap();
        assert!(spdy.is_ready());
        for (number, kind) in [(7, "stderr"), (9, "stdout"), (11, "other")] {
            let step = spdy.step(&open_stream(false, number, kind)).unwrap();
            assert_eq!(step.answers, [Encoder::reset(number, REFUSED_STREAM)], "{kind}");
        }
    }

    #[test]
    fn input_ends_with_its_stream_and_the_session_with_a_farewell() {
        let mut spdy = reader(true, false);
        for (number, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "resize")] {
            spdy.step(&open_stream(number == 1, number, kind)).unwrap();
        }
        let bytes = [
            Encoder::data(3, b"in", false),
            Encoder::data(7, b"{}", false),
            Encoder::ping(8),
            Encoder::data(3, &[], true),
        ];
        let step = spdy.step(&bytes.concat()).unwrap();
        let expected =
            [Input::Stdin("in".into()), Input::Resize(Bytes::from_static(b"{}")), Input::StdinClosed];
        assert_eq!(step, Step { inputs: expected.into(), answers: vec![Encoder::ping(8)], left: false });
        assert!(spdy.step(&[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap().left);
    }

    #[test]
    fn every_output_is_ended_and_the_status_comes_last() {
        let open = Open { error: Some(1), stdout: Some(3), ..Open::default() };
        let status = json!({"status": "Failure", "message": "no"});
        let end = Writer::Spdy(open, true).end(&status);
        let text = status.to_string();
        assert_eq!(end, [Encoder::data(3, &[], true), Encoder::data(1, text.as_bytes(), true)]);
        assert_eq!(Writer::Spdy(open, false).end(&status)[1], Encoder::data(1, b"no", true));
        assert_eq!(Writer::Spdy(open, true).output(Output::Stderr, b"x"), None);
    }

    #[test]
    fn a_message_is_a_channel_and_its_payload() {
        let inputs = |piece: &'static [u8]| message(&Bytes::from_static(piece)).inputs;
        assert_eq!(inputs(&[0, b'a']), [Input::Stdin("a".into())]);
        assert_eq!(inputs(&[255, 0]), [Input::StdinClosed]);
        assert_eq!(inputs(&[255, 1]), []);
        assert_eq!(inputs(&[]), []);
        assert_eq!(Writer::Socket.output(Output::Stderr, b"x"), Some(Bytes::from_static(&[2, b'x'])));
    }
}
