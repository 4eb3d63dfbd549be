//! One exchange's account: the permit it runs on, the meter that follows it, and the one settlement it ends with.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hyper::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use hyper::http::response::Parts;
use tokio::time::Instant;

use crate::broker::{Stage, Work};
use crate::domain::{Ending, Known, ProviderName, ProviderNotes, Settlement, Tokens, Usage};
use crate::meter::{Ask, Details, EarlyEnd, HeaderCounts, Reading, ResponseHead, ResponseMeter, ServerEvent};

use super::headers::text;
use super::link::{Committed, LivePermit, NoAnswer};
use super::measures::operation;
use super::provider_notes;
use super::view::Passage;

/// What responses are that come piece by piece.
const STREAMED: [&str; 3] = ["text/event-stream", "application/vnd.amazon.eventstream", "application/x-ndjson"];

/// Settles exactly once: when told how the exchange ended, or else when dropped.
#[derive(Debug)]
pub(super) struct Account {
    permit: Option<LivePermit>,
    remaining: Option<Tokens>,
    /// What its times are told of, if it is metered.
    work: Option<Work>,
    sent: Option<Instant>,
    /// When the first bytes of the response came.
    first: Option<Instant>,
    /// It comes piece by piece.
    is_streamed: bool,
    passage: Arc<Passage>,
    ask: Ask,
    is_sent: bool,
    meter: Option<ResponseMeter>,
    /// Where the response ends with its budget.
    early_end: Option<Box<EarlyEnd>>,
    status: Option<u16>,
    request_id: Option<String>,
    notes: ProviderNotes,
    settled_total: Tokens,
    /// What the next request of the conversation reads again.
    context: Tokens,
}

/// What becomes of bytes on their way.
#[derive(Debug)]
pub(super) struct Taken {
    /// What may pass.
    pub(super) passes: Bytes,
    /// The provider's last word on usage has been seen.
    pub(super) is_final: bool,
    /// A budget is used up: the response ends here.
    pub(super) is_over: bool,
}

impl Account {
    /// For a request that has been admitted and not yet sent.
    pub(super) fn new(permit: LivePermit, ask: Ask, (provider, passage): (ProviderName, Arc<Passage>)) -> Self {
        let mut account = Self::of_nobody(passage);
        account.work = ask.is_metered.then(|| Work { provider, operation: operation(ask.dialect) });
        (account.remaining, account.permit, account.ask) = (permit.remaining(), Some(permit), ask);
        account
    }

    /// For a request to a host that spends no tokens.
    pub(super) fn of_nobody(passage: Arc<Passage>) -> Self {
        Self {
            remaining: None,
            permit: None,
            work: None,
            sent: None,
            first: None,
            is_streamed: false,
            passage,
            ask: Ask::nothing(),
            is_sent: false,
            meter: None,
            early_end: None,
            status: None,
            request_id: None,
            notes: ProviderNotes::default(),
            settled_total: Tokens::ZERO,
            context: Tokens::ZERO,
        }
    }

    /// For a request that has been admitted on a WebSocket, where its response comes as events.
    pub(super) fn of_events(permit: LivePermit, ask: Ask, whose: (ProviderName, Arc<Passage>)) -> Self {
        let meter = ResponseMeter::of_events(&ask);
        let early_end = permit.ends_with_budget().then(|| Box::new(EarlyEnd::of_events(&ask)));
        let mut account = Self::new(permit, ask, whose);
        (account.meter, account.early_end, account.is_streamed) = (Some(meter), early_end, true);
        account
    }

    /// Does its response carry usage?
    pub(super) fn is_metered(&self) -> bool {
        self.ask.is_metered
    }

    /// Has some of the request left for the provider?
    pub(super) fn set_sent(&mut self, is_sent: bool) {
        self.is_sent = is_sent;
        self.sent = is_sent.then(Instant::now);
    }

    /// The provider's head is there.
    pub(super) fn take_head(&mut self, head: &Parts) {
        self.status = Some(head.status.as_u16());
        self.request_id = provider_notes::request_id(&head.headers);
        self.notes = provider_notes::notes(&head.headers);
        if self.ask.is_metered {
            let response = ResponseHead {
                status: head.status.as_u16(),
                content_type: text(&head.headers, &CONTENT_TYPE),
                content_encoding: text(&head.headers, &CONTENT_ENCODING),
                counts: HeaderCounts::read(|name| head.headers.get(name)?.to_str().ok()),
            };
            let kind = response.content_type.unwrap_or_default();
            self.is_streamed = STREAMED.iter().any(|streamed| kind.starts_with(streamed));
            self.meter = Some(ResponseMeter::new(&self.ask, &response));
            let ends_with_budget = self.permit.as_ref().is_some_and(LivePermit::ends_with_budget);
            self.early_end = ends_with_budget.then(|| Box::new(EarlyEnd::new(&self.ask, &response)));
        }
    }

    /// What was left in the tightest budget when the exchange was admitted.
    pub(super) fn remaining(&self) -> Option<Tokens> {
        self.remaining.filter(|_| self.ask.is_metered)
    }

    /// May the response turn out shorter than the provider says it is?
    pub(super) fn may_end_early(&self) -> bool {
        self.early_end.as_ref().is_some_and(|early_end| early_end.is_possible())
    }

    /// Bytes of the body on their way. Where the response ends with its budget, events pass when they are whole, and none
    /// after the one that uses it up.
    pub(super) fn take(&mut self, data: Bytes) -> Taken {
        let Some(mut early_end) = self.early_end.take() else {
            return Taken { is_final: self.take_bytes(&data), passes: data, is_over: false };
        };
        early_end.push(&data);
        let mut passes = BytesMut::new();
        let (mut is_final, mut is_over) = (false, false);
        while !is_over && let Some(piece) = early_end.next_piece() {
            is_final = self.take_bytes(&piece);
            is_over = self.is_over();
            passes.extend_from_slice(&piece);
        }
        self.early_end = Some(early_end);
        Taken { passes: passes.freeze(), is_final, is_over }
    }

    /// No more bytes come: what has come of an event that is not whole.
    pub(super) fn take_rest(&mut self) -> Bytes {
        let rest = self.early_end.take().map(|mut early_end| early_end.rest()).unwrap_or_default();
        if !rest.is_empty() {
            self.take_bytes(&rest);
        }
        rest
    }

    /// What ends the body after all that has passed, in the provider's words; `None` where nothing can.
    pub(super) fn end_early(&mut self) -> Option<Vec<u8>> {
        self.early_end.take()?.end(&self.meter.as_ref()?.reading())
    }

    /// The same for events.
    pub(super) fn end_events_early(&mut self) -> Vec<Vec<u8>> {
        let ended = self.early_end.take().zip(self.meter.as_ref());
        ended.map(|(early_end, meter)| early_end.end_events(&meter.reading())).unwrap_or_default()
    }

    /// Has a budget been used up, by this exchange and others in flight, before the provider has said all it will?
    pub(super) fn is_over(&self) -> bool {
        let Some((permit, meter)) = self.permit.as_ref().zip(self.meter.as_ref()) else { return false };
        let reading = meter.reading();
        permit.counts(&reading.usage) && reading.known != Known::Reported
    }

    /// `true` when the provider's last word on usage has been seen.
    fn take_bytes(&mut self, bytes: &[u8]) -> bool {
        self.first.get_or_insert_with(Instant::now);
        let Some(meter) = &mut self.meter else { return false };
        meter.push(bytes);
        meter.reading().is_final
    }

    /// An event of the response, as it stands in `message`.
    pub(super) fn take_event(&mut self, event: &ServerEvent, message: &[u8]) {
        self.first.get_or_insert_with(Instant::now);
        if let Some(meter) = &mut self.meter {
            meter.event(message);
        }
        if let Some(early_end) = &mut self.early_end {
            early_end.event(message);
        }
        self.status = event.status.or(self.status);
        self.request_id = self.request_id.take().or_else(|| event.response_id.clone());
    }

    /// Bytes of the response that nobody can read.
    pub(super) fn miss(&mut self, bytes: usize) {
        if let Some(meter) = &mut self.meter {
            meter.miss(bytes);
        }
    }

    /// The request leads to no response, and has cost nothing.
    pub(super) fn spare(&mut self) {
        self.meter = None;
        self.is_sent = false;
    }

    /// Input and output so far, but for what the model only thought.
    pub(super) fn context(&self) -> Tokens {
        self.meter.as_ref().map_or(self.context, |meter| context(&meter.reading())).max(self.context)
    }

    /// Must each frame wait for the next, because only the transport says which is the last?
    pub(super) fn holds_back_last_frame(&self) -> bool {
        self.meter.as_ref().is_some_and(ResponseMeter::holds_back_last_frame)
    }

    /// Has the settlement been sent?
    pub(super) fn is_settled(&self) -> bool {
        self.permit.is_none()
    }

    /// Does the response say, after it was settled, that it used more?
    pub(super) fn exceeds_settlement(&self) -> bool {
        let used = self.meter.as_ref().map(|meter| meter.reading().usage.total());
        self.is_settled() && used.is_some_and(|used| used > self.settled_total)
    }

    /// Sends the settlement, once. The answer may be waited for or dropped.
    pub(super) fn settle(
        &mut self,
        ending: Ending,
    ) -> Option<impl Future<Output = Result<Committed, NoAnswer>> + Send + 'static> {
        let permit = self.permit.take()?;
        let is_error = self.status.is_some_and(|status| status >= 400);
        let ending = if is_error && ending == Ending::Complete { Ending::Error } else { ending };
        let reading = self.reading(ending, is_error);
        // A stream that began well may end in an error, and end whole.
        let ending = if reading.failed && ending == Ending::Complete { Ending::Error } else { ending };
        self.tell_times(ending);
        self.settled_total = reading.usage.total();
        self.context = context(&reading);
        let (status, provider_request_id) = (self.status, self.request_id.take());
        let mut notes = std::mem::take(&mut self.notes);
        notes.service_tier = reading.service_tier.or(notes.service_tier);
        let settling = permit.settle(move |permit| Settlement {
            permit,
            usage: reading.usage,
            details: reading.details,
            known: reading.known,
            ending,
            status,
            model: reading.model,
            provider_request_id,
            notes,
        });
        let (passage, asking) = (Arc::clone(&self.passage), Instant::now());
        Some(async move {
            let committed = settling.await;
            passage.measures.passed(Stage::Settle, asking.elapsed());
            committed
        })
    }

    /// How long the provider took; nothing is told of what never left.
    fn tell_times(&mut self, ending: Ending) {
        let Some((work, sent)) = self.work.take().zip(self.sent) else { return };
        let first = self.first.filter(|_| self.is_streamed).map(|first| first.saturating_duration_since(sent));
        self.passage.measures.worked(work, ending, sent.elapsed(), first);
    }

    /// What the exchange used, were it to end like this.
    fn reading(&mut self, ending: Ending, is_error: bool) -> Reading {
        if !self.ask.is_metered {
            return nothing(Known::Unmetered);
        }
        if self.meter.as_ref().is_some_and(|meter| meter.reading().is_final) {
            // The meter goes on: what follows must not use more.
            return self.meter.as_ref().map_or_else(|| nothing(Known::Estimated), ResponseMeter::reading);
        }
        match self.meter.take() {
            Some(meter) => {
                let reading = meter.finish(ending);
                // An error that names no usage was not billed.
                if is_error && reading.known == Known::Estimated { nothing(Known::Reported) } else { reading }
            }
            // The request has left and no head came back: the provider may have read it all.
            None if self.is_sent => {
                let usage = Usage { input: self.ask.input_estimate, ..Usage::default() };
                Reading { usage, ..nothing(Known::Estimated) }
            }
            None => nothing(Known::Reported),
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let ending = if self.passage.is_severed() { Ending::Cut } else { Ending::Cancelled };
        drop(self.settle(ending));
    }
}

fn context(reading: &Reading) -> Tokens {
    reading.usage.total().saturating_sub(reading.details.reasoning)
}

fn nothing(known: Known) -> Reading {
    Reading {
        usage: Usage::default(),
        details: Details::default(),
        known,
        has_report: false,
        is_final: true,
        failed: false,
        model: None,
        service_tier: None,
    }
}
