//! The bottles' only resolver: names that routes allow, and the proxy's own, lead to the gateway, everything else is refused. Nobody is asked.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use crate::domain::{Host, RefusalReason};

use super::limits::{ACCEPT_PAUSE, DNS_IDLE_TIME_MAX, DNS_QUERY_BYTES_MAX};
use super::link::Link;
use super::own;
use super::request_log::Line;

/// What a question is called that is no request.
const DNS: &str = "DNS";
/// How long an answer may be kept, seconds: short, as routes change.
const ANSWER_SECONDS: u32 = 30;

/// Answers for bottles.
#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) link: Arc<Link>,
    pub(super) gateway: Ipv4Addr,
}

impl Resolver {
    /// Answers datagrams for as long as the process lives.
    pub(super) async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        let mut query = [0; DNS_QUERY_BYTES_MAX + 1];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut query).await else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let answer = query.get(..length).filter(|query| query.len() <= DNS_QUERY_BYTES_MAX);
            if let Some(answer) = answer.and_then(|query| self.answer(peer.ip(), query)) {
                // As lossy as UDP is.
                let _ = socket.send_to(&answer, peer).await;
            }
        }
    }

    /// Answers connections for as long as the process lives.
    pub(super) async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let IpAddr::V4(address) = peer.ip().to_canonical() else { continue };
            let policy = self.link.policy();
            let Some(bottle) = policy.bottle(address) else { continue };
            let Some(place) = bottle.passage.admit_connection() else { continue };
            let severed = bottle.passage.severed();
            let resolver = Arc::clone(&self);
            tokio::spawn(async move {
                tokio::select! {
                    () = severed => {}
                    // A client that leaves or sends nonsense is simply left.
                    _ = resolver.converse(stream, peer.ip()) => {}
                }
                drop(place);
            });
        }
    }

    /// Queries with their length in front, one after the other.
    async fn converse(&self, mut stream: TcpStream, peer: IpAddr) -> std::io::Result<()> {
        let mut query = [0; DNS_QUERY_BYTES_MAX];
        loop {
            let Ok(length) = timeout(DNS_IDLE_TIME_MAX, stream.read_u16()).await else { return Ok(()) };
            let Some(query) = query.get_mut(..usize::from(length?)) else { return Ok(()) };
            let Ok(read) = timeout(DNS_IDLE_TIME_MAX, stream.read_exact(query)).await else { return Ok(()) };
            read?;
            let Some(answer) = self.answer(peer, query) else { return Ok(()) };
            let length = u16::try_from(answer.len()).unwrap_or(0);
            let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
            let Ok(written) = timeout(DNS_IDLE_TIME_MAX, stream.write_all(&framed)).await else { return Ok(()) };
            written?;
        }
    }

    fn answer(&self, peer: IpAddr, query: &[u8]) -> Option<Vec<u8>> {
        let IpAddr::V4(address) = peer.to_canonical() else { return None };
        let policy = self.link.policy();
        let bottle = policy.bottle(address)?;
        let traffic = &bottle.passage.traffic;
        traffic.received(query.len());
        let mut refused = None;
        let answer = answer(query, self.gateway, |host| {
            let is_allowed = own::is_own(host) || policy.names(bottle, host);
            if !is_allowed {
                refused = Some(host.clone());
            }
            is_allowed
        })?;
        traffic.sent(answer.len());
        if let Some(host) = refused {
            let reason = RefusalReason::HostNotAllowed;
            let log = policy.routes.log(&bottle.view.lineage);
            Line::new(&bottle.view.name, DNS, "", Some(reason)).at(Some(&host)).write(log);
            self.link.tell_refused(bottle, reason, Some(&host), DNS, None);
        }
        Some(answer)
    }
}

/// The answer to a query; `None` for what is none.
fn answer(query: &[u8], gateway: Ipv4Addr, mut is_allowed: impl FnMut(&Host) -> bool) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata = Metadata::response_from_request(&query.metadata);
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = ResponseCode::Refused;
    if let ([question], OpCode::Query) = (query.queries.as_slice(), query.metadata.op_code) {
        answer.add_query(question.clone());
        let host: Option<Host> = question.name.to_ascii().parse().ok();
        if host.is_some_and(|host| is_allowed(&host)) && question.query_class == DNSClass::IN {
            // No record but the address: no IPv6 path, no keys for a hidden SNI, no hints at HTTP/3.
            answer.metadata.response_code = ResponseCode::NoError;
            if question.query_type == RecordType::A {
                answer.add_answer(Record::from_rdata(question.name.clone(), ANSWER_SECONDS, RData::A(A(gateway))));
            }
        }
    }
    answer.to_vec().ok()
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;
    use proptest::prelude::*;

    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);

    fn is_allowed(host: &Host) -> bool {
        own::is_own(host) || host.as_str() == "api.anthropic.com"
    }

    fn query(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.add_query(Query::query(name.parse().unwrap(), kind));
        message.to_vec().unwrap()
    }

    fn check(name: &str, kind: RecordType, code: ResponseCode, addresses: &[Ipv4Addr]) {
        let sent = query(name, kind);
        let answer = Message::from_vec(&answer(&sent, GATEWAY, is_allowed).unwrap()).unwrap();
        assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
        let found: Vec<_> = answer
            .answers
            .iter()
            .map(|record| if let RData::A(address) = &record.data { address.0 } else { panic!("{record}") })
            .collect();
        assert_eq!(found, addresses, "{name} {kind}");
        assert_eq!(answer.metadata.id, Message::from_vec(&sent).unwrap().metadata.id);
    }

    #[test]
    fn allowed_names_lead_to_the_gateway_and_nothing_else_leads_anywhere() {
        check("api.anthropic.com.", RecordType::A, ResponseCode::NoError, &[GATEWAY]);
        check("API.Anthropic.COM.", RecordType::A, ResponseCode::NoError, &[GATEWAY]);
        check("_egress.local.", RecordType::A, ResponseCode::NoError, &[GATEWAY]);
        check("_egress.local.", RecordType::AAAA, ResponseCode::NoError, &[]);
        for kind in [RecordType::AAAA, RecordType::HTTPS, RecordType::SVCB, RecordType::TXT, RecordType::MX] {
            check("api.anthropic.com.", kind, ResponseCode::NoError, &[]);
        }
        for name in [
            "example.com.",
            "egress.local.",
            "x._egress.local.",
            "x.api.anthropic.com.",
            ".",
            "data-to-leak.api.anthropic.com.evil.com.",
        ] {
            check(name, RecordType::A, ResponseCode::Refused, &[]);
            check(name, RecordType::AAAA, ResponseCode::Refused, &[]);
        }
    }

    #[test]
    fn an_answer_is_not_answered() {
        let mut message = Message::response(1, OpCode::Query);
        message.add_query(Query::query("api.anthropic.com.".parse().unwrap(), RecordType::A));
        assert_eq!(answer(&message.to_vec().unwrap(), GATEWAY, is_allowed), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_resolver_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            answer(&bytes, GATEWAY, is_allowed);
        }

        #[test]
        fn no_bytes_behind_a_query_make_it_panic(at in 0usize..40, byte in any::<u8>()) {
            let mut bytes = query("api.anthropic.com.", RecordType::A);
            let at = at % bytes.len();
            bytes[at] = byte;
            answer(&bytes, GATEWAY, is_allowed);
        }
    }
}
