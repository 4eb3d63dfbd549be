//! A proxy between one bottle (this process, at 127.0.0.1) and one provider, with a controller that is told what to say.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use egress_userspace::broker::{
    Admission, BottleView, Configuration, FrameReader, FrameWriter, FromController, FromProxy, LeafReply, Listeners,
    Permit, Phase, RequestNumber, Snapshot, send_listeners,
};
use egress_userspace::domain::{
    self, Allowance, Api, BottleId, BudgetView, CacheReads, CrossingMode, Host, PermitId, Preflight, Preflights,
    Question, Refusal, RefusalReason, RouteFile, Scope, Secret, SecretSource, Settlement, SpendRequest, Supervised,
    Tokens,
};
use egress_userspace::policy::{MeteredTable, RouteFiles};
use egress_userspace::proxy::{Prepared, ProxyError};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::provider::Provider;

pub(crate) const PROVIDER: &str = "api.anthropic.com";
/// Another name of the same provider.
pub(crate) const OPENAI: &str = "api.openai.com";
pub(crate) const GEMINI: &str = "generativelanguage.googleapis.com";
pub(crate) const BEDROCK: &str = "bedrock-runtime.us-east-1.amazonaws.com";
pub(crate) const OLLAMA: &str = "ollama.corp.example";
/// A name of it whose tokens nobody counts.
pub(crate) const ROUTED: &str = "tools.corp.example";
/// All its other names.
pub(crate) const HOSTS: [&str; 5] = [PROVIDER, OPENAI, GEMINI, BEDROCK, OLLAMA];
pub(crate) const BOTTLE: BottleId = BottleId(7);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
/// Longer than anything here takes unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A certificate authority.
pub(crate) struct Authority {
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    pub(crate) fn leaf(&self, names: &[&str]) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let chain = vec![certificate.der().clone(), self.der.clone()];
        (chain, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())))
    }
}

/// Where the proxy listens.
#[derive(Clone, Copy)]
pub(crate) struct Doors {
    pub(crate) explicit: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) plain: SocketAddr,
    pub(crate) dns_udp: SocketAddr,
    pub(crate) dns_tcp: SocketAddr,
}

/// What the proxy has said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) is_ready: bool,
    pub(crate) admits: Vec<SpendRequest>,
    pub(crate) settlements: Vec<Settlement>,
    pub(crate) minted: Vec<Host>,
    pub(crate) delivered: usize,
    pub(crate) refusals_delivered: usize,
    pub(crate) unknown_paths: Vec<String>,
    pub(crate) budget_questions: usize,
    pub(crate) refused: Vec<Refused>,
    /// What operators are asked.
    pub(crate) questions: Vec<Question>,
    /// Detector, host, method and path, whether the bottle sent it, how often.
    pub(crate) redacted: Vec<(String, String, String, bool, u64)>,
}

/// A refused request, as it would be audited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: RefusalReason,
    pub(crate) host: Option<String>,
    pub(crate) target: String,
    pub(crate) rule: Option<String>,
    pub(crate) count: u64,
}

/// What the controller will answer.
#[derive(Clone, Default)]
pub(crate) struct Script {
    pub(crate) refusal: Option<Refusal>,
    pub(crate) crossed: bool,
    /// What is left of the host's budget, if there is one, before anything is settled.
    pub(crate) left: Option<u64>,
    /// What an operator says; nothing when `None`.
    pub(crate) verdict: Option<Supervised>,
    /// What the bottle's budgets are.
    pub(crate) budgets: Option<Vec<BudgetView>>,
}

impl Script {
    /// What the ledger would say, so many tokens being settled and held.
    fn allowances(&self, settled: u64, held: Tokens) -> Vec<Allowance> {
        let left = |left: u64| Tokens(left.saturating_sub(settled));
        let allowance = |budget| Allowance { scope: Scope::Host, budget: Tokens(budget), left: left(budget), held };
        self.left.into_iter().map(allowance).collect()
    }
}

pub(crate) struct World {
    pub(crate) doors: Doors,
    pub(crate) provider: Provider,
    pub(crate) bottle_roots: CertificateDer<'static>,
    /// What the provider's own certificate is signed by.
    pub(crate) provider_roots: CertificateDer<'static>,
    pub(crate) heard: watch::Receiver<Heard>,
    pub(crate) script: Arc<Mutex<Script>>,
    preflight: Mutex<Preflight>,
    crossing: Mutex<CrossingMode>,
    /// While `true`, settlements are not answered.
    pub(crate) holds_settlements: watch::Sender<bool>,
    /// While `true`, requests are not admitted.
    pub(crate) holds_admissions: watch::Sender<bool>,
    to_proxy: mpsc::UnboundedSender<FromController>,
    controller: JoinHandle<()>,
    metered: MeteredTable,
    routes: Mutex<RouteFiles>,
    /// A second bottle is at this address.
    neighbour: Mutex<Option<Ipv4Addr>>,
}

/// The controller's side of a fresh pair, listeners and configuration already sent.
pub(crate) struct Begun {
    pub(crate) doors: Doors,
    pub(crate) controller: UnixStream,
    pub(crate) proxy: UnixStream,
}

/// Binds, hands over and configures, as the controller does.
pub(crate) fn begin() -> Begun {
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
    let dns_udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listeners = Listeners { explicit: tcp(), tls: tcp(), plain: tcp(), dns_udp, dns_tcp: tcp() };
    let address = |listener: &TcpListener| listener.local_addr().unwrap();
    let doors = Doors {
        explicit: address(&listeners.explicit),
        tls: address(&listeners.tls),
        plain: address(&listeners.plain),
        dns_udp: listeners.dns_udp.local_addr().unwrap(),
        dns_tcp: address(&listeners.dns_tcp),
    };
    let (controller, proxy) = UnixStream::pair().unwrap();
    send_listeners(&controller, &listeners).unwrap();
    Begun { doors, controller, proxy }
}

impl World {
    /// The proxy in this process, without its sandbox.
    pub(crate) async fn start() -> Self {
        Self::start_with(true).await.0
    }

    pub(crate) async fn start_with(provider_speaks_h2: bool) -> (Self, JoinHandle<Result<(), ProxyError>>) {
        let begun = begin();
        let upstream_roots = Authority::new();
        let provider = Provider::start(&upstream_roots, provider_speaks_h2).await;
        let world = Self::control(begun.controller, begun.doors, &upstream_roots, provider).await;
        let prepared = tokio::task::spawn_blocking(move || Prepared::receive(begun.proxy)).await.unwrap().unwrap();
        let serving = tokio::spawn(prepared.serve());
        world.wait("the proxy is ready", |heard| heard.is_ready).await;
        (world, serving)
    }

    /// A controller on `socket`.
    pub(crate) async fn control(socket: UnixStream, doors: Doors, roots: &Authority, provider: Provider) -> Self {
        let authority = Authority::new();
        let bottle_roots = authority.der.clone();
        let metered = metered_at(provider.address);
        let (to_proxy, outgoing) = mpsc::unbounded_channel();
        let (heard_sender, heard) = watch::channel(Heard::default());
        let (holds_settlements, holds_admissions) = (watch::Sender::new(false), watch::Sender::new(false));
        let script = Arc::new(Mutex::new(Script::default()));
        let configuration = Configuration {
            gateway: GATEWAY,
            extra_roots_pem: roots.pem.clone(),
            approval_key: Secret::new("key".to_owned()),
        };
        to_proxy.send(FromController::Configure(configuration)).unwrap();
        let controller = Controller {
            authority,
            heard: heard_sender,
            script: Arc::clone(&script),
            holds_settlements: holds_settlements.subscribe(),
            holds_admissions: holds_admissions.subscribe(),
            to_proxy: to_proxy.clone(),
            permits: 0,
            settled: 0,
        };
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UnixStream::from_std(socket).unwrap();
        let controller = tokio::spawn(controller.run(socket, outgoing));
        let world = Self {
            doors,
            provider,
            bottle_roots,
            provider_roots: roots.der.clone(),
            heard,
            script,
            preflight: Mutex::default(),
            crossing: Mutex::default(),
            holds_settlements,
            holds_admissions,
            to_proxy,
            controller,
            metered,
            routes: Mutex::new(RouteFiles { host: open_handed(), ..RouteFiles::default() }),
            neighbour: Mutex::default(),
        };
        world.phase(Phase::Open);
        world
    }

    /// Publishes a snapshot with the bottle in this phase.
    pub(crate) fn phase(&self, phase: Phase) {
        self.publish(phase, self.metered.clone());
    }

    /// Publishes a snapshot with these routes; later ones keep them.
    pub(crate) fn route(&self, file: RouteFile) {
        *self.routes.lock().unwrap() = RouteFiles { host: file, ..RouteFiles::default() };
        self.phase(Phase::Open);
    }

    /// Says what the variables are that routes name.
    pub(crate) fn secrets(&self, variables: &[(&str, &str)]) {
        let secret =
            |(name, value): &(&str, &str)| (SecretSource::Env((*name).to_owned()), Secret::new((*value).to_owned()));
        let secrets = variables.iter().map(secret).collect();
        self.to_proxy.send(FromController::Secrets { secrets }).unwrap();
    }

    /// Publishes a snapshot with this way to look at requests before they are sent; later ones keep it.
    pub(crate) fn preflight(&self, preflight: Preflight) {
        *self.preflight.lock().unwrap() = preflight;
        self.phase(Phase::Open);
    }

    /// Responses end with this budget; later snapshots keep it.
    pub(crate) fn sever_at(&self, left: u64) {
        self.script.lock().unwrap().left = Some(left);
        *self.crossing.lock().unwrap() = CrossingMode::Sever;
        self.phase(Phase::Open);
    }

    /// Publishes a snapshot in which the provider's name leads to `address`.
    pub(crate) fn reach_provider_at(&self, address: SocketAddr) {
        self.publish(Phase::Open, metered_at(address));
    }

    /// Publishes a snapshot with a second bottle at this address; later ones keep it.
    pub(crate) fn neighbour(&self, address: Ipv4Addr) {
        *self.neighbour.lock().unwrap() = Some(address);
        self.phase(Phase::Open);
    }

    fn publish(&self, phase: Phase, metered: MeteredTable) {
        let bottle = BottleView {
            id: BOTTLE,
            name: "web".parse().unwrap(),
            lineage: vec!["web".parse().unwrap()],
            agent: None,
            address: Ipv4Addr::LOCALHOST,
            preflight: None,
            phase,
        };
        let neighbour = self.neighbour.lock().unwrap().map(|address| BottleView {
            id: BottleId(BOTTLE.0 + 1),
            name: "api".parse().unwrap(),
            address,
            phase: Phase::Open,
            ..bottle.clone()
        });
        let preflight = *self.preflight.lock().unwrap();
        let preflight = Preflights { usual: preflight, ..Preflights::default() };
        let snapshot = Snapshot {
            bottles: [Some(bottle), neighbour].into_iter().flatten().collect(),
            metered,
            routes: self.routes.lock().unwrap().clone(),
            preflight,
            crossing: *self.crossing.lock().unwrap(),
            cache_reads: CacheReads::Count,
            drain_ms: 1_000,
            idle_ms: 2_000,
            own_networks: BTreeSet::new(),
        };
        self.to_proxy.send(FromController::Snapshot(snapshot)).unwrap();
    }

    /// The controller dies.
    pub(crate) fn kill_controller(&self) {
        self.controller.abort();
    }

    /// Waits until what the proxy has said fulfils `condition`.
    pub(crate) async fn wait(&self, what: &str, condition: impl Fn(&Heard) -> bool) -> Heard {
        let mut heard = self.heard.clone();
        let found = timeout(PATIENCE, heard.wait_for(|heard| condition(heard))).await;
        let found = found.map(|found| found.unwrap().clone());
        found.unwrap_or_else(|_| panic!("not seen in time: {what}; heard {:?}", self.heard.borrow()))
    }

    /// The only settlement there is, once it is there; that no second follows is given some time to show.
    pub(crate) async fn only_settlement(&self) -> Settlement {
        self.wait("a settlement", |heard| !heard.settlements.is_empty()).await;
        sleep(Duration::from_millis(100)).await;
        let heard = self.heard.borrow().clone();
        assert_eq!(heard.settlements.len(), 1, "{:?}", heard.settlements);
        assert_eq!(heard.admits.len(), 1);
        heard.settlements.into_iter().next().unwrap()
    }
}

struct Controller {
    authority: Authority,
    heard: watch::Sender<Heard>,
    script: Arc<Mutex<Script>>,
    holds_settlements: watch::Receiver<bool>,
    holds_admissions: watch::Receiver<bool>,
    to_proxy: mpsc::UnboundedSender<FromController>,
    permits: i64,
    /// Tokens.
    settled: u64,
}

impl Controller {
    async fn run(mut self, socket: tokio::net::UnixStream, mut outgoing: mpsc::UnboundedReceiver<FromController>) {
        let (reader, writer) = socket.into_split();
        let mut writer = FrameWriter::new(writer);
        let mut reader = FrameReader::new(reader);
        let reading = async {
            while let Ok(Some(said)) = reader.read().await {
                self.take(said);
            }
        };
        tokio::select! {
            () = reading => {}
            _ = writer.write_from(&mut outgoing) => {}
        }
    }

    fn take(&mut self, said: FromProxy) {
        match said {
            FromProxy::Ready => self.heard.send_modify(|heard| heard.is_ready = true),
            FromProxy::Admit { number, request } => {
                let input_estimate = request.input_estimate;
                self.heard.send_modify(|heard| heard.admits.push(request));
                self.permits += 1;
                let refusal = self.script.lock().unwrap().refusal.clone();
                let allowances = self.script.lock().unwrap().allowances(self.settled, input_estimate);
                let permit = Admission::Permit(Permit { id: PermitId(self.permits), allowances });
                let admission = refusal.map_or(permit, Admission::Refused);
                let answer = FromController::Admitted { number, admission };
                let (mut holds, to_proxy) = (self.holds_admissions.clone(), self.to_proxy.clone());
                tokio::spawn(async move {
                    let _ = holds.wait_for(|holds| !holds).await;
                    let _ = to_proxy.send(answer);
                });
            }
            FromProxy::Settle { number, settlement } => {
                self.settled += settlement.usage.total().0;
                self.heard.send_modify(|heard| heard.settlements.push(*settlement));
                let script = self.script.lock().unwrap().clone();
                let (crossed, allowances) = (script.crossed, script.allowances(self.settled, Tokens::ZERO));
                let answer = FromController::Settled { number, crossed, allowances };
                let (mut holds, to_proxy) = (self.holds_settlements.clone(), self.to_proxy.clone());
                if !*holds.borrow() {
                    // In the order of settlements, as the ledger answers.
                    return self.say(answer);
                }
                tokio::spawn(async move {
                    let _ = holds.wait_for(|holds| !holds).await;
                    let _ = to_proxy.send(answer);
                });
            }
            FromProxy::Supervise { number, question, .. } => self.take_question(number, question),
            FromProxy::Exchanged { .. } | FromProxy::Measured { .. } | FromProxy::SuperviseOver { .. } => {}
            FromProxy::Refused { bottle, reason, host, target, rule, count } => {
                assert_eq!(bottle, BOTTLE);
                let refused = Refused { reason, host: host.map(|host| host.to_string()), target, rule, count };
                self.heard.send_modify(|heard| heard.refused.push(refused));
            }
            FromProxy::Delivered { bottle } => {
                assert_eq!(bottle, BOTTLE);
                self.heard.send_modify(|heard| heard.delivered += 1);
            }
            FromProxy::RefusalDelivered { bottle } => {
                assert_eq!(bottle, BOTTLE);
                self.heard.send_modify(|heard| heard.refusals_delivered += 1);
            }
            FromProxy::PathUnknown { bottle, host, target } => {
                assert_eq!((bottle, host.as_str()), (BOTTLE, PROVIDER));
                self.heard.send_modify(|heard| heard.unknown_paths.push(target));
            }
            FromProxy::Redacted { bottle, detector, host, target, is_outbound, count } => {
                assert_eq!(bottle, BOTTLE);
                let redacted = (detector, host.to_string(), target, is_outbound, count);
                self.heard.send_modify(|heard| heard.redacted.push(redacted));
            }
            FromProxy::Budgets { number, bottle } => {
                assert_eq!(bottle, BOTTLE);
                self.heard.send_modify(|heard| heard.budget_questions += 1);
                let budgets = self.script.lock().unwrap().budgets.clone();
                self.say(FromController::Budgets { number, budgets });
            }
            FromProxy::MintLeaf { number, host } => {
                let leaf = self.mint(&host);
                self.heard.send_modify(|heard| heard.minted.push(host));
                self.say(FromController::Leaf { number, leaf });
            }
        }
    }

    fn take_question(&self, number: RequestNumber, question: Question) {
        let verdict = self.script.lock().unwrap().verdict;
        self.heard.send_modify(|heard| heard.questions.push(question));
        if let Some(answer) = verdict {
            self.say(FromController::Supervised { number, answer });
        }
    }

    fn mint(&self, host: &Host) -> LeafReply {
        let (chain, key) = self.authority.leaf(&[host.as_str()]);
        LeafReply::Leaf {
            chain_der: chain.into_iter().map(|certificate| certificate.to_vec()).collect(),
            key_der: key.secret_der().to_vec(),
            expires_unix_ms: i64::MAX,
        }
    }

    fn say(&self, message: FromController) {
        let _ = self.to_proxy.send(message);
    }
}

/// The provider is reached at this address, by all of its names.
fn metered_at(address: SocketAddr) -> MeteredTable {
    let hosts = vec![(OLLAMA.parse().unwrap(), Api::Ollama)];
    let own = domain::Provider { name: "local".parse().unwrap(), hosts, stream_usage: None };
    let names = HOSTS.into_iter().chain([ROUTED]);
    MeteredTable::new(&[own], &names.map(|name| (name.parse().unwrap(), address)).collect::<Vec<_>>())
}

/// No route, and what agents bring passes.
pub(crate) fn open_handed() -> RouteFile {
    RouteFile { passthrough: Some(true), ..RouteFile::default() }
}

/// An address that is no bottle's.
pub(crate) const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
