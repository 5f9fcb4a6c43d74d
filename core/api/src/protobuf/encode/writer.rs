//! The walk over a JSON text that writes each value as it is met.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::super::ProtobufError;
use super::super::table::{Field, Form, Found, Scalar, Shape, Table};

/// Writes the fields of a JSON object as those of a message.
pub(super) fn write(message: usize, json: &[u8], out: &mut Vec<u8>) -> Result<(), ProtobufError> {
    let mut text = serde_json::Deserializer::from_slice(json);
    let outcome = Object(Writer { out, table: Table::get() }, message).deserialize(&mut text);
    outcome.map_err(|error| ProtobufError::Unencodable(error.to_string()))
}

/// Where it writes. The reader of JSON bounds how deep it goes.
struct Writer<'o> {
    out: &'o mut Vec<u8>,
    table: &'static Table,
}

impl Writer<'_> {
    fn same(&mut self) -> Writer<'_> {
        Writer { out: self.out, table: self.table }
    }

    /// Writes a field whose length is known at its end.
    fn nested<E>(&mut self, tag: u32, content: impl FnOnce(&mut Self) -> Result<(), E>) -> Result<(), E> {
        encode_key(tag, WireType::LengthDelimited, self.out);
        let place = self.out.len();
        self.out.push(0);
        content(self)?;
        let length = (self.out.len() - place - 1) as u64;
        let (mut bytes, size) = ([0_u8; 10], encoded_len_varint(length));
        encode_varint(length, &mut &mut bytes[..]);
        self.out.splice(place..=place, bytes.into_iter().take(size));
        Ok(())
    }

    /// As `nested`, inside of those that embed it.
    fn within<E>(&mut self, tags: &[u32], content: impl FnOnce(&mut Self) -> Result<(), E>) -> Result<(), E> {
        match tags {
            [] => content(self),
            [tag, rest @ ..] => self.nested(*tag, |writer| writer.within(rest, content)),
        }
    }

    fn text(&mut self, tag: u32, text: &str) {
        super::field(tag, text.as_bytes(), self.out);
    }

    fn number(&mut self, tag: u32, number: u64) {
        encode_key(tag, WireType::Varint, self.out);
        encode_varint(number, self.out);
    }

    fn form(&self, message: usize) -> Form {
        self.table.layout(message).map_or(Form::Object, |layout| layout.form)
    }
}

/// An object whose fields are a message's.
struct Object<'o>(Writer<'o>, usize);

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<(), A::Error> {
        while let Some(found) = fields.next_key_seed(Name(self.0.table, self.1))? {
            match found {
                Some(Found { within, field }) => self
                    .0
                    .within(&within, |writer| fields.next_value_seed(FieldValue(writer.same(), field)))?,
                None => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// The name of a field, looked up.
struct Name(&'static Table, usize);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<Found<'static>>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<Found<'static>>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }
    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.layout(self.1).and_then(|layout| layout.named(self.0, name)))
    }
}

/// The value or values of a field.
struct FieldValue<'o>(Writer<'o>, &'static Field);

impl<'de> DeserializeSeed<'de> for FieldValue<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let FieldValue(writer, field) = self;
        match field.shape {
            Shape::One => One { writer, tag: field.tag, kind: field.scalar }.deserialize(deserializer),
            Shape::List => {
                deserializer.deserialize_option(List { writer, tag: field.tag, kind: field.scalar })
            }
            Shape::Map => {
                deserializer.deserialize_option(Entries { writer, tag: field.tag, kind: field.scalar })
            }
        }
    }
}

/// A list: the field as often as there are items.
struct List<'o> {
    writer: Writer<'o>,
    tag: u32,
    kind: Scalar,
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let (tag, kind) = (self.tag, self.kind);
        while items.next_element_seed(One { writer: self.writer.same(), tag, kind })?.is_some() {}
        Ok(())
    }
}

/// A map: the field as often as there are entries, each a message of key and value.
struct Entries<'o> {
    writer: Writer<'o>,
    tag: u32,
    kind: Scalar,
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }
    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key::<std::borrow::Cow<'_, str>>()? {
            let kind = self.kind;
            self.writer.nested(self.tag, |writer| {
                writer.text(1, &key);
                entries.next_value_seed(One { writer: writer.same(), tag: 2, kind })
            })?;
        }
        Ok(())
    }
}

/// One value.
struct One<'o> {
    writer: Writer<'o>,
    tag: u32,
    kind: Scalar,
}

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<(), D::Error> {
        if let Scalar::Message(message) = self.kind
            && self.writer.form(message) == Form::Embedded
        {
            let raw = <&RawValue as serde::Deserialize>::deserialize(deserializer)?.get();
            return self.writer.nested(self.tag, |writer| {
                if raw != "null" {
                    writer.text(1, raw);
                }
                Ok(())
            });
        }
        deserializer.deserialize_any(self)
    }
}

/// The field of a list of schemas.
const SCHEMAS: u32 = 2;
/// The field of a list of names.
const NAMES: u32 = 2;

impl One<'_> {
    fn form(&self) -> Option<(usize, Form)> {
        match self.kind {
            Scalar::Message(message) => Some((message, self.writer.form(message))),
            Scalar::Text | Scalar::Bytes | Scalar::Integer | Scalar::Boolean | Scalar::Double => None,
        }
    }

    fn integer<E: Error>(mut self, number: i64) -> Result<(), E> {
        let (tag, form) = (self.tag, self.form());
        match (self.kind, form) {
            (Scalar::Integer, _) => self.writer.number(tag, number as u64),
            (Scalar::Double, _) => self.double(number as f64),
            (_, Some((_, Form::IntOrString))) => self.writer.nested(tag, |writer| {
                writer.number(2, number as u64);
                Ok(())
            })?,
            (_, Some((_, Form::Quantity))) => self.writer.nested(tag, |writer| {
                writer.text(1, &number.to_string());
                Ok(())
            })?,
            _ => return Err(E::custom("a number stands where none belongs")),
        }
        Ok(())
    }

    fn double(&mut self, number: f64) {
        encode_key(self.tag, WireType::SixtyFourBit, self.writer.out);
        self.writer.out.extend_from_slice(&number.to_bits().to_le_bytes());
    }

    fn time<E: Error>(mut self, text: &str, form: Form) -> Result<(), E> {
        let time: Option<Timestamp> = if text.is_empty() {
            None
        } else {
            Some(text.parse().map_err(|_| E::custom("a text that should be a time is none"))?)
        };
        self.writer.nested(self.tag, |writer| {
            let Some(time) = time else { return Ok(()) };
            // Before the epoch, both parts of the protocol's form still count forwards.
            let nanos = time.as_nanosecond();
            let (seconds, rest) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
            writer.number(1, seconds as i64 as u64);
            if form == Form::MicroTime && rest != 0 {
                writer.number(2, rest as u64);
            }
            Ok(())
        })
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Scalar::Text | Scalar::Bytes => f.write_str("a text"),
            Scalar::Integer | Scalar::Double => f.write_str("a number"),
            Scalar::Boolean => f.write_str("true or false"),
            Scalar::Message(_) => f.write_str("an object"),
        }
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(mut self, value: bool) -> Result<(), E> {
        let (tag, form) = (self.tag, self.form());
        match (self.kind, form) {
            (Scalar::Boolean, _) => self.writer.number(tag, u64::from(value)),
            (_, Some((_, Form::SchemaOrBool))) => self.writer.nested(tag, |writer| {
                writer.number(1, u64::from(value));
                Ok(())
            })?,
            _ => return Err(E::custom("a boolean stands where none belongs")),
        }
        Ok(())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.integer(number)
    }

    fn visit_u64<E: Error>(mut self, number: u64) -> Result<(), E> {
        match (i64::try_from(number), self.kind) {
            (Ok(number), _) => self.integer(number),
            (Err(_), Scalar::Double) => {
                self.double(number as f64);
                Ok(())
            }
            (Err(_), _) => Err(E::custom("a number is out of range")),
        }
    }

    fn visit_f64<E: Error>(mut self, number: f64) -> Result<(), E> {
        let (tag, form) = (self.tag, self.form());
        match (self.kind, form) {
            (Scalar::Double, _) => {
                self.double(number);
                Ok(())
            }
            (_, Some((_, Form::Quantity))) => self.writer.nested(tag, |writer| {
                writer.text(1, &number.to_string());
                Ok(())
            }),
            _ if number.fract() == 0.0 && number.abs() < 9e15 => self.integer(number as i64),
            _ => Err(E::custom("a fraction stands where none belongs")),
        }
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        let (tag, form) = (self.tag, self.form());
        match (self.kind, form) {
            (Scalar::Text, _) => self.writer.text(tag, text),
            (Scalar::Bytes, _) => {
                let bytes = STANDARD.decode(text).map_err(|_| E::custom("a text is not base64"))?;
                super::field(tag, &bytes, self.writer.out);
            }
            (_, Some((_, form @ (Form::Time | Form::MicroTime)))) => return self.time(text, form),
            (_, Some((_, Form::Quantity))) => self.writer.nested(tag, |writer| {
                writer.text(1, text);
                Ok(())
            })?,
            (_, Some((_, Form::IntOrString))) => self.writer.nested(tag, |writer| {
                writer.number(1, 1);
                writer.text(3, text);
                Ok(())
            })?,
            _ => return Err(E::custom("a text stands where none belongs")),
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, fields: A) -> Result<(), A::Error> {
        let Some((message, form)) = self.form() else {
            return Err(A::Error::custom("an object stands where none belongs"));
        };
        let schema = match form {
            Form::Object => None,
            // Of a schema or something else, the schema.
            Form::SchemaOrBool => Some(2),
            Form::SchemaOrArray | Form::SchemaOrNames => Some(1),
            _ => return Err(A::Error::custom("an object stands where none belongs")),
        };
        self.writer.nested(self.tag, |writer| {
            let Some(tag) = schema else { return Object(writer.same(), message).visit_map(fields) };
            if form == Form::SchemaOrBool {
                writer.number(1, 1);
            }
            let inner = writer.table.layout(message).and_then(|layout| layout.tagged(tag));
            let Some(Field { scalar: Scalar::Message(inner), .. }) = inner else {
                return Err(A::Error::custom("a schema has no message"));
            };
            writer.nested(tag, |writer| Object(writer.same(), *inner).visit_map(fields))
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let Some((message, form)) = self.form() else {
            return Err(A::Error::custom("a list stands where none belongs"));
        };
        let tag = match form {
            Form::Items => 1,
            Form::SchemaOrArray => SCHEMAS,
            Form::SchemaOrNames => NAMES,
            _ => return Err(A::Error::custom("a list stands where none belongs")),
        };
        self.writer.nested(self.tag, |writer| {
            let field = writer.table.layout(message).and_then(|layout| layout.tagged(tag));
            let Some(kind) = field.map(|field| field.scalar) else {
                return Err(A::Error::custom("a list has no message"));
            };
            while items.next_element_seed(One { writer: writer.same(), tag, kind })?.is_some() {}
            Ok(())
        })
    }
}
