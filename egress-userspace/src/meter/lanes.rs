//! The responses in flight on one WebSocket, and to which of them an event belongs.
//!
//! An event that names its response, or one that has ended, is that one's. One that names a response nobody knows is of the
//! first on its lane that waits for its beginning: requests of one lane are worked on in order. One without a name is of the
//! first that runs. A request of which it is not certain that it has a response of its own (steering) comes after those of
//! which it is. An event of a lane that nobody asked on may be of any: some servers do not repeat the lane.

use std::collections::VecDeque;

use super::responses_socket::{EventKind, ServerEvent, Work};

/// Responses in flight on one socket.
const OPEN_MAX: usize = 64;
/// Responses that have ended of which the names are kept.
const ENDED_MAX: usize = 64;

/// What is in flight; `T` is kept for each response.
#[derive(Debug)]
pub struct Lanes<T> {
    open: Vec<Lane<T>>,
    ended: VecDeque<Lane<T>>,
}

#[derive(Debug)]
struct Lane<T> {
    stream_id: Option<String>,
    /// Known once the response has begun.
    response_id: Option<String>,
    has_begun: bool,
    is_create: bool,
    item: T,
}

/// Whose an event is.
#[derive(Debug, PartialEq, Eq)]
pub enum Route<'a, T> {
    /// That of a response in flight.
    Open(Place, &'a mut T),
    /// That of a response that has ended.
    Ended(&'a mut T),
    /// Something is used that nobody asked for.
    Stranger,
    /// It counts for none.
    Nobody,
}

/// Where a response in flight is, until the next one ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(usize);

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { open: Vec::new(), ended: VecDeque::new() }
    }
}

impl<T> Lanes<T> {
    /// Can one more be in flight?
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.open.len() < OPEN_MAX
    }

    /// Is a response expected to say something?
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.open.iter().any(|lane| lane.is_create || lane.has_begun)
    }

    /// What is kept for the response of this name.
    #[must_use]
    pub fn named(&self, response_id: &str) -> Option<&T> {
        let mut lanes = self.open.iter().chain(self.ended.iter().rev());
        lanes.find(|lane| lane.response_id.as_deref() == Some(response_id)).map(|lane| &lane.item)
    }

    /// What is kept for the one that ended last.
    #[must_use]
    pub fn latest(&self) -> Option<&T> {
        self.ended.back().map(|lane| &lane.item)
    }

    /// A request goes to the provider.
    pub fn open(&mut self, work: &Work, item: T) {
        let continued = work.continues.as_deref().filter(|_| !work.is_create);
        let mut lanes = self.open.iter().chain(&self.ended);
        let target = continued.and_then(|id| lanes.find(|lane| lane.response_id.as_deref() == Some(id)));
        // Steering says no lane: it is its target's.
        let stream_id = target.map_or_else(|| work.stream_id.clone(), |lane| lane.stream_id.clone());
        let is_create = work.is_create;
        self.open.push(Lane { stream_id, response_id: None, has_begun: false, is_create, item });
    }

    /// A response has begun, or written, that nobody asked for.
    pub fn adopt(&mut self, event: &ServerEvent, item: T) {
        let stream_id = event.stream_id.clone();
        self.open.push(Lane { stream_id, response_id: None, has_begun: true, is_create: true, item });
    }

    /// Whose is this event?
    pub fn route(&mut self, event: &ServerEvent) -> Route<'_, T> {
        if let Some(at) = self.position(event) {
            let Some(lane) = self.open.get_mut(at) else { return Route::Nobody };
            if matches!(event.kind, EventKind::Begins | EventKind::Writes | EventKind::Ends | EventKind::Fails) {
                lane.has_begun = true;
                lane.response_id = lane.response_id.take().or_else(|| event.response_id.clone());
            }
            return Route::Open(Place(at), &mut lane.item);
        }
        let is_known = |lane: &Lane<T>| lane.response_id.is_some() && lane.response_id == event.response_id;
        match (self.ended.iter().rposition(is_known).and_then(|at| self.ended.get_mut(at)), event.kind) {
            (Some(lane), _) => Route::Ended(&mut lane.item),
            (None, EventKind::Begins | EventKind::Writes | EventKind::Ends) => Route::Stranger,
            (None, EventKind::Fails) if event.response_id.is_some() => Route::Stranger,
            (None, _) => Route::Nobody,
        }
    }

    /// The response there has ended. What is kept for it stays for a while: its end may be told twice.
    pub fn end(&mut self, place: Place) -> Option<&mut T> {
        if place.0 >= self.open.len() {
            return None;
        }
        let lane = self.open.remove(place.0);
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(lane);
        self.ended.back_mut().map(|lane| &mut lane.item)
    }

    /// The oldest in flight ends.
    pub fn end_first(&mut self) -> Option<&mut T> {
        self.end(Place(0))
    }

    /// Which of those in flight is meant?
    fn position(&self, event: &ServerEvent) -> Option<usize> {
        if matches!(event.kind, EventKind::Other | EventKind::Unknown) {
            return None;
        }
        // What spares names the response that was to be steered.
        if let Some(id) = event.response_id.as_deref().filter(|_| event.kind != EventKind::Spares) {
            let is_this = |lane: &Lane<T>| lane.response_id.as_deref() == Some(id);
            let named = self.open.iter().position(is_this);
            if named.is_some() || self.ended.iter().any(is_this) {
                return named;
            }
        }
        let is_new = event.response_id.is_some();
        let on_lane = self.open.iter().any(|lane| lane.stream_id == event.stream_id);
        let first = |wanted: &dyn Fn(&Lane<T>) -> bool| {
            let is_on = |lane: &Lane<T>| !on_lane || lane.stream_id == event.stream_id;
            self.open.iter().position(|lane| is_on(lane) && wanted(lane))
        };
        let running = || first(&|lane| lane.has_begun);
        // One that was adopted, or has written before it was named, gets its name with the first event that has one.
        let nameless = || first(&|lane| lane.has_begun && lane.response_id.is_none());
        let expected = || first(&|lane| !lane.has_begun && lane.is_create);
        let possible = || first(&|lane| !lane.has_begun && !lane.is_create);
        match event.kind {
            EventKind::Begins => nameless().or_else(expected).or_else(possible),
            EventKind::Ends | EventKind::Fails | EventKind::Writes if is_new => {
                nameless().or_else(expected).or_else(possible)
            }
            EventKind::Ends | EventKind::Fails | EventKind::Writes => running().or_else(expected).or_else(possible),
            EventKind::Rejects => expected().or_else(running).or_else(possible),
            EventKind::Spares => possible(),
            EventKind::Other | EventKind::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Api;
    use crate::meter::work;

    /// Sends what asks for work; each is kept under its number.
    fn asked(requests: &[&str]) -> Lanes<usize> {
        let mut lanes = Lanes::default();
        for (number, request) in requests.iter().enumerate() {
            lanes.open(&work(Api::OpenAi, "/v1/responses", request.as_bytes()).unwrap(), number);
        }
        lanes
    }

    fn create(stream: &str) -> String {
        let stream = if stream.is_empty() { String::new() } else { format!(",\"stream_id\":\"{stream}\"") };
        format!("{{\"type\":\"response.create\"{stream}}}")
    }

    /// An event in short: `created:resp_1@s1`, `delta@s1`, `error?` (with a status), `error` (numbered).
    fn event(short: &str) -> ServerEvent {
        let (rest, stream) = short.split_once('@').map_or((short, None), |(rest, stream)| (rest, Some(stream)));
        let (kind, id) = rest.split_once(':').map_or((rest, None), |(kind, id)| (kind, Some(id)));
        let kind = match kind {
            "delta" => "\"response.output_text.delta\"".to_owned(),
            "error?" => "\"error\",\"status\":400,\"error\":{}".to_owned(),
            "error" => "\"error\",\"sequence_number\":7".to_owned(),
            "steer.failed" => "\"response.steer.failed\"".to_owned(),
            "codex.rate_limits" => "\"codex.rate_limits\"".to_owned(),
            kind => format!("\"response.{kind}\""),
        };
        let stream = stream.map(|stream| format!(",\"stream_id\":\"{stream}\"")).unwrap_or_default();
        let id = id.map(|id| format!(",\"response\":{{\"id\":\"{id}\"}}")).unwrap_or_default();
        ServerEvent::read(format!("{{\"type\":{kind}{stream}{id}}}").as_bytes())
    }

    /// Events, and for each whose it is: a number, `!` and a number for one that has ended, `stranger`, or `-`.
    fn check(requests: &[&str], events: &[(&str, &str)]) {
        let mut lanes = asked(requests);
        for (short, expected) in events {
            let event = event(short);
            let (found, place) = match lanes.route(&event) {
                Route::Open(place, number) => (number.to_string(), Some(place)),
                Route::Ended(number) => (format!("!{number}"), None),
                Route::Stranger => ("stranger".to_owned(), None),
                Route::Nobody => ("-".to_owned(), None),
            };
            assert_eq!(&found, expected, "{short} of {events:?}");
            if let Some(place) = place.filter(|_| event.is_terminal()) {
                lanes.end(place);
            }
        }
    }

    #[test]
    fn responses_one_after_another_are_told_apart() {
        let created = create("");
        check(
            &[&created, &created],
            &[
                ("codex.rate_limits", "-"),
                ("created:a", "0"),
                ("in_progress:a", "0"),
                ("delta", "0"),
                ("completed:a", "0"),
                ("completed:a", "!0"),
                ("created:b", "1"),
                ("delta", "1"),
                ("incomplete:b", "1"),
                ("done:b", "!1"),
            ],
        );
    }

    #[test]
    fn lanes_run_side_by_side() {
        let (one, two) = (create("s1"), create("s2"));
        check(
            &[&one, &two, &one],
            &[
                ("created:b@s2", "1"),
                ("created:a@s1", "0"),
                ("delta@s2", "1"),
                ("delta@s1", "0"),
                ("completed:a@s1", "0"),
                ("created:c@s1", "2"),
                ("delta@s1", "2"),
                ("completed:b@s2", "1"),
                ("failed:c@s1", "2"),
            ],
        );
    }

    #[test]
    fn without_lanes_the_name_tells_and_then_the_order() {
        let created = create("");
        check(
            &[&created, &created],
            &[
                ("created:a", "0"),
                ("created:b", "1"),
                ("delta", "0"),
                ("completed:b", "1"),
                ("delta", "0"),
                ("completed:a", "0"),
            ],
        );
        // A server that neither names its responses nor repeats the lane.
        check(&[&create("s1"), &create("s2")], &[("delta", "0"), ("completed", "0"), ("completed", "1")]);
    }

    #[test]
    fn a_rejection_is_of_the_request_that_waits_and_an_error_of_the_response_that_runs() {
        let created = create("");
        check(
            &[&created, &created, &created],
            &[
                ("created:a", "0"),
                ("error?", "1"),
                ("error", "0"),
                ("failed:a", "!0"),
                ("created:c", "2"),
                ("error?", "2"),
            ],
        );
        check(&[&create("s1"), &create("s2")], &[("error?@s2", "1"), ("error@s1", "0"), ("error?", "-")]);
    }

    #[test]
    fn a_steered_response_goes_on_in_another() {
        let steer = r#"{"type":"response.steer","previous_response_id":"a","input":"x"}"#;
        let mut lanes = asked(&[&create("s1")]);
        assert_eq!(lanes.route(&event("created:a@s1")), Route::Open(Place(0), &mut 0));
        lanes.open(&work(Api::OpenAi, "/v1/responses", steer.as_bytes()).unwrap(), 1);
        assert_eq!(lanes.route(&event("incomplete:a@s1")), Route::Open(Place(0), &mut 0));
        lanes.end(Place(0));
        assert!(!lanes.is_waiting(), "nobody waits for what may never come");
        assert_eq!(lanes.route(&event("created:b@s1")), Route::Open(Place(0), &mut 1));
        assert!(lanes.is_waiting());
        // Two in one: what is left comes after a request of its own.
        check(
            &[steer, &create("")],
            &[("created:a", "1"), ("completed:a", "1"), ("created:b", "0"), ("completed:b", "0")],
        );
        check(&[steer], &[("steer.failed", "0"), ("created:b", "stranger")]);
    }

    #[test]
    fn what_nobody_asked_for_is_noticed() {
        check(&[], &[("created:a", "stranger"), ("delta", "stranger"), ("completed", "stranger")]);
        check(&[], &[("error?", "-"), ("error", "-"), ("steer.failed", "-"), ("failed:a", "stranger")]);
        let mut lanes = asked(&[&create("")]);
        assert_eq!(lanes.route(&event("created:a")), Route::Open(Place(0), &mut 0));
        let begun = event("created:b");
        assert_eq!(lanes.route(&begun), Route::Stranger);
        lanes.adopt(&begun, 9);
        assert_eq!(lanes.route(&begun), Route::Open(Place(1), &mut 9));
        assert_eq!(lanes.route(&event("completed:b")), Route::Open(Place(1), &mut 9));
        assert_eq!(lanes.route(&event("completed:a")), Route::Open(Place(0), &mut 0));
    }

    #[test]
    fn as_many_are_kept_as_the_limits_say() {
        let created = create("");
        let mut lanes = asked(&vec![created.as_str(); OPEN_MAX]);
        assert!(!lanes.has_room());
        let more = work(Api::OpenAi, "/v1/responses", created.as_bytes()).unwrap();
        for number in 0..=ENDED_MAX {
            assert!(matches!(lanes.route(&event(&format!("created:r{number}"))), Route::Open(..)));
            lanes.end(Place(0));
            lanes.open(&more, 1_000 + number);
        }
        assert_eq!((lanes.named("r0"), lanes.named("r1"), lanes.latest()), (None, Some(&1), Some(&1_000)));
        assert_eq!(std::iter::from_fn(|| lanes.end_first().copied()).count(), OPEN_MAX);
        assert!(lanes.has_room() && !lanes.is_waiting());
    }
}
