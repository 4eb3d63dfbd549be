//! Messages of WebSockets, each looked at by itself: whole ones, and those that are so large that they come in pieces.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use thiserror::Error;

use crate::domain::{InboundOnMatch, OutboundOnMatch, Refusal};
use crate::meter::websocket::{Frame, Opcode};
use crate::policy::dlp::{Detectors, Finding, Layers, Passing, Redactor, Scan, Wanted};

use super::super::allowed::Allowed;
use super::super::exchange::Run;
use super::supervisor::Supervisor;
use super::{Report, Screening, unreadable};

/// Something was found that may not pass.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the detector {0} found something that may not pass")]
pub(in super::super) struct Found(pub(in super::super) String);

/// One direction of a socket.
pub(in super::super) struct FrameScreen {
    detectors: Arc<Detectors>,
    overwrites: bool,
    /// Is asked about what was found; where there is none, it ends the socket.
    supervisor: Option<Supervisor>,
    report: Report,
    /// For the message of which the end has not been seen.
    message: Option<Redactor>,
    /// What passes when everything that was found has been approved.
    held: Option<Frame>,
    found: VecDeque<Finding>,
    asking: Option<Asking>,
    /// Nothing more passes.
    over: Option<Found>,
}

/// The detector that is asked about, and the answer, in a lock for want of another proof that nobody shares it.
type Asking = (usize, Mutex<Pin<Box<dyn Future<Output = bool> + Send>>>);

/// Both directions of a socket, each of which may be looked at.
#[derive(Debug, Default)]
pub(in super::super) struct FrameScreens {
    pub(in super::super) outbound: Option<FrameScreen>,
    pub(in super::super) inbound: Option<FrameScreen>,
}

impl FrameScreen {
    fn new(detectors: Arc<Detectors>, overwrites: bool, supervisor: Option<Supervisor>, report: Report) -> Self {
        let (message, held, asking, over) = (None, None, None, None);
        Self { detectors, overwrites, supervisor, report, message, held, found: VecDeque::new(), asking, over }
    }

    /// Looks at a frame; [`Self::poll_frame`] hands it on.
    pub(in super::super) fn take(&mut self, frame: Frame) -> Result<(), Found> {
        let is_control = matches!(frame.opcode, Opcode::Ping | Opcode::Pong | Opcode::Close);
        if is_control {
            let found = Scan::all(&self.detectors, Layers::Body, &frame.payload);
            self.held = Some(frame);
            return if found.is_empty() { Ok(()) } else { self.end(&found) };
        }
        let fresh = || match self.overwrites {
            true => Redactor::new(&self.detectors, Layers::Body),
            false => Redactor::watching(&self.detectors, Layers::Body),
        };
        let mut message = self.message.take().unwrap_or_else(fresh);
        let Passing { bytes, mut found } = message.push(&frame.payload);
        let mut payload = Vec::from(bytes);
        if frame.is_final {
            let rest = message.finish();
            payload.extend_from_slice(&rest.bytes);
            found.extend(rest.found);
        } else {
            self.message = Some(message);
        }
        self.held = Some(Frame { payload, ..frame });
        if found.is_empty() {
            return Ok(());
        }
        if self.overwrites {
            self.report.count(&self.detectors, &found);
            return Ok(());
        }
        if self.supervisor.is_none() {
            return self.end(&found);
        }
        self.found.extend(found);
        Ok(())
    }

    /// The frame that was looked at last, when it may pass; `None` when there is none.
    pub(in super::super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Found>> {
        loop {
            if let Some(over) = &self.over {
                return Poll::Ready(Err(over.clone()));
            }
            if let Some((detector, answer)) = &mut self.asking {
                let answer = answer.get_mut().unwrap_or_else(PoisonError::into_inner);
                let is_approved = ready!(answer.as_mut().poll(cx));
                let detector = *detector;
                self.asking = None;
                if !is_approved {
                    let name = self.detectors.name(detector).to_owned();
                    self.report.refused(&name);
                    self.over = Some(Found(name));
                    continue;
                }
            }
            let Some((finding, supervisor)) = self.found.pop_front().zip(self.supervisor.clone()) else {
                return Poll::Ready(Ok(self.held.take()));
            };
            let name = self.detectors.name(finding.detector).to_owned();
            let answer: Pin<Box<dyn Future<Output = bool> + Send>> = Box::pin(supervisor.approves(name, finding.value));
            self.asking = Some((finding.detector, Mutex::new(answer)));
        }
    }

    fn end(&mut self, found: &[Finding]) -> Result<(), Found> {
        let first = found.iter().map(|finding| finding.detector).min().unwrap_or_default();
        let found = Found(self.detectors.name(first).to_owned());
        self.report.refused(&found.0);
        self.over = Some(found.clone());
        Err(found)
    }
}

impl std::fmt::Debug for FrameScreen {
    /// Never shows what passes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameScreen").finish_non_exhaustive()
    }
}

impl Run<'_> {
    /// What looks at the messages of a socket.
    pub(in super::super) fn frame_screens(&self, allowed: &Allowed) -> Result<FrameScreens, Refusal> {
        let outbound = self.screening(allowed)?.map(|screening| {
            let Screening { detectors, on_match, supervisor, report } = screening;
            let supervisor = (on_match == OutboundOnMatch::Supervise).then_some(supervisor);
            FrameScreen::new(detectors, on_match == OutboundOnMatch::Redact, supervisor, report)
        });
        let on_match = allowed.way.inbound;
        let lineage = &self.bottle.view.lineage;
        let wanted = Wanted::inbound(on_match, &self.policy.routes, lineage, &self.policy.secrets);
        let detectors = self.exchange.sets.of(wanted).map_err(|error| unreadable(&error.to_string()))?;
        let inbound = (!detectors.is_empty()).then(|| {
            let report = self.report(&allowed.target.host, false);
            FrameScreen::new(detectors, on_match == InboundOnMatch::Redact, None, report)
        });
        Ok(FrameScreens { outbound, inbound })
    }
}
