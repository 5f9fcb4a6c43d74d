//! How a client's streams are carried (pure): pieces in, input and answers out, and back.
//!
//! Over WebSocket each message begins with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the final `Status`, 4 terminal
//! size, and in v5 255, which closes the channel named by its payload. Where messages are texts, the channel is a digit and the rest is
//! base64. Over SPDY the client opens a stream for each,
//! whose header `streamType` says which it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Binary,
    Base64,
}

/// What a session ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    Status,
    /// Its message, if it failed.
    Text,
}

/// Understands the client.
pub(super) enum Reader {
    /// Messages with a channel.
    Socket(Form, Farewell),
    /// Streams.
    Spdy(Box<SpdyReader>),
}

impl Reader {
    /// Whether all streams are there.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Reader::Socket(..) => true,
            Reader::Spdy(spdy) => spdy.is_ready(),
        }
    }

    pub(super) fn step(&mut self, piece: &Bytes) -> Result<Step, SpdyError> {
        match self {
            Reader::Socket(Form::Binary, _) => Ok(message(piece)),
            Reader::Socket(Form::Base64, _) => Ok(decoded(piece).map_or_else(farewell, |it| message(&it))),
            Reader::Spdy(spdy) => spdy.step(piece),
        }
    }

    /// What writes to the streams that are open now.
    pub(super) fn writer(&self) -> Writer {
        match self {
            Reader::Socket(form, farewell) => Writer::Socket(*form, *farewell),
            Reader::Spdy(spdy) => Writer::Spdy(spdy.open, spdy.tells_status),
        }
    }
}

/// A text as the message that it stands for; `None` when it stands for none.
fn decoded(piece: &[u8]) -> Option<Bytes> {
    let (digit, payload) = piece.split_first()?;
    let channel = digit.is_ascii_digit().then(|| digit - b'0')?;
    Some(self::channel(channel, &STANDARD.decode(payload).ok()?))
}

/// What cannot be understood ends the session.
fn farewell() -> Step {
    Step { left: true, ..Step::default() }
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
    Socket(Form, Farewell),
    /// Streams; whether the last is a `Status`.
    Spdy(Open, bool),
}

fn channel(channel: u8, payload: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(payload.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(payload);
    bytes.into()
}

fn framed(form: Form, channel: u8, payload: &[u8]) -> Bytes {
    match form {
        Form::Binary => self::channel(channel, payload),
        Form::Base64 => self::channel(b'0' + channel, STANDARD.encode(payload).as_bytes()),
    }
}

impl Writer {
    /// Output as a piece; `None` for output that nobody wants.
    pub(super) fn output(self, output: Output, payload: &[u8]) -> Option<Bytes> {
        match (self, output) {
            (Writer::Socket(form, _), Output::Stdout) => Some(framed(form, STDOUT, payload)),
            (Writer::Socket(form, _), Output::Stderr) => Some(framed(form, STDERR, payload)),
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
        let message = || status["message"].as_str().unwrap_or_default().to_owned();
        let (open, tells_status) = match self {
            Writer::Socket(form, Farewell::Status) => {
                return vec![framed(form, ERROR, status.to_string().as_bytes())];
            }
            Writer::Socket(_, Farewell::Text) if status["status"] == "Success" => return Vec::new(),
            Writer::Socket(form, Farewell::Text) => return vec![framed(form, ERROR, message().as_bytes())],
            Writer::Spdy(open, tells_status) => (open, tells_status),
        };
        let text = if tells_status { status.to_string() } else { message() };
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
        let writer = Writer::Socket(Form::Binary, Farewell::Status);
        assert_eq!(writer.output(Output::Stderr, b"x"), Some(Bytes::from_static(&[2, b'x'])));
    }

    #[test]
    fn where_messages_are_texts_the_channel_is_a_digit_and_the_rest_base64() {
        let mut reader = Reader::Socket(Form::Base64, Farewell::Text);
        let mut step = |text: &'static str| reader.step(&Bytes::from_static(text.as_bytes())).unwrap();
        assert_eq!(step("0aGk=").inputs, [Input::Stdin("hi".into())]);
        assert_eq!(step("4e30=").inputs, [Input::Resize(Bytes::from_static(b"{}"))]);
        assert_eq!(step("0").inputs, []);
        assert!(step("0*").left && step("xaGk=").left);
        assert_eq!(reader.writer().output(Output::Stdout, b"hi"), Some(Bytes::from_static(b"1aGk=")));
    }

    #[test]
    fn before_the_fourth_version_a_failure_ends_with_its_text_and_success_with_nothing() {
        let writer = Writer::Socket(Form::Binary, Farewell::Text);
        let failed = json!({"status": "Failure", "message": "no"});
        assert_eq!(writer.end(&failed), [Bytes::from_static(b"\x03no")]);
        assert_eq!(writer.end(&json!({"status": "Success"})), Vec::<Bytes>::new());
        let of_texts = Writer::Socket(Form::Base64, Farewell::Text);
        assert_eq!(of_texts.end(&failed), [Bytes::from_static(b"3bm8=")]);
    }
}
