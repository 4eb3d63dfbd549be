//! JSON texts → values, within bounds: what a text makes the memory hold does not follow from its length (seven bytes of
//! `{"":0},` take six hundred as a value).

use std::cell::Cell;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Values kept of one text; those beyond are passed over. Thousands of output items stand before a usage that matters.
const VALUES_MAX: u32 = 4096;
/// Values kept of one text where it tells usage, however many came before.
const TELLING_VALUES_MAX: u32 = 1024;
/// Keys of what tells usage, and of what must not be missed beside it.
const TELLING: [&str; 12] = [
    "usage",
    "usageMetadata",
    "amazon-bedrock-invocationMetrics",
    "metadata",
    "x_groq",
    "copilot_usage",
    "type",
    "id",
    "model",
    "error",
    "stop_reason",
    "incomplete_details",
];

/// The value of a text, as far as it is kept; `None` when it is no JSON.
pub(super) fn parse(text: &[u8]) -> Option<Value> {
    let room = Room { values: Cell::new(VALUES_MAX), telling: Cell::new(TELLING_VALUES_MAX) };
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Keep { room: &room, is_telling: false }.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(value)
}

/// How many values may be kept yet.
struct Room {
    values: Cell<u32>,
    telling: Cell<u32>,
}

/// Keeps one value and what room there is for in it.
#[derive(Clone, Copy)]
struct Keep<'a> {
    room: &'a Room,
    is_telling: bool,
}

impl Keep<'_> {
    /// Room for one value, if there is any.
    fn take(self) -> Option<Self> {
        let left = if self.is_telling { &self.room.telling } else { &self.room.values };
        left.set(left.get().checked_sub(1)?);
        Some(self)
    }
}

impl<'de> DeserializeSeed<'de> for Keep<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keep<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        while let Some(keep) = self.take() {
            let Some(value) = elements.next_element_seed(keep)? else { return Ok(Value::Array(kept)) };
            kept.push(value);
        }
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(kept))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            let keep = Self { is_telling: self.is_telling || TELLING.contains(&key.as_str()), ..self };
            match keep.take() {
                Some(keep) => drop(kept.insert(key, fields.next_value_seed(keep)?)),
                None => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(kept))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(text: &str) {
        assert_eq!(parse(text.as_bytes()), serde_json::from_str(text).ok(), "{text}");
    }

    #[test]
    fn an_ordinary_text_is_kept_whole() {
        for text in [
            r#"{"a":[1,-2,0.5,1e300,null,true,"\u00e9\n",{}],"b":{"c":[[]]},"a":7}"#,
            "18446744073709551615",
            "-9223372036854775808",
            "18446744073709551616",
            " \"text\" ",
            "[]",
        ] {
            assert!(serde_json::from_str::<Value>(text).is_ok(), "{text}");
            check(text);
        }
    }

    #[test]
    fn what_is_no_json_has_no_value() {
        for text in ["", " ", "{", "{}x", "[1,]", "{\"a\" 1}", "nul", "\"\u{1}\"", "{1:2}", "[DONE]"] {
            assert!(serde_json::from_str::<Value>(text).is_err(), "{text}");
            check(text);
        }
        assert_eq!(parse("[".repeat(1000).as_bytes()), None);
        assert_eq!(parse(b"\"\xff\""), None);
    }

    #[test]
    fn usage_is_kept_after_more_than_there_is_room_for() {
        let many = vec!["{\"\":0}"; VALUES_MAX as usize].join(",");
        let text = format!(
            r#"{{"response":{{"output":[{many}],"other":1,"model":"m","usage":{{"a":{{"b":7}}}}}},"last":0,"type":"x"}}"#
        );
        let mut value = parse(text.as_bytes()).unwrap();
        let output = value["response"]["output"].take();
        assert_eq!(value, json!({"response": {"output": null, "model": "m", "usage": {"a": {"b": 7}}}, "type": "x"}));
        assert_eq!(output.as_array().unwrap().len(), VALUES_MAX as usize / 2 - 1);
        let endless = format!("{{\"usage\":[{many}],\"model\":1,\"a\":2}}");
        assert_eq!(
            parse(endless.as_bytes()).unwrap()["usage"].as_array().unwrap().len(),
            TELLING_VALUES_MAX as usize / 2
        );
    }
}
