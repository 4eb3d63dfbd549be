//! Any interleaving of admissions, settlements, lost proxies and restarts, held against an account kept the obvious way.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::budget::{Decision, Want, bind, crossed, decide};
use crate::domain::{BottleRules, LimitSource, Precedence, Preflight, Preflights, Scope, ScopeState};

#[derive(Clone, Debug)]
enum Step {
    Admit { bottle: usize, provider: usize, is_metered: bool, input: u64, output: u64 },
    Settle { which: prop::sample::Index, input: u64, output: u64 },
    SettleOpen,
    Reopen,
}

const PROVIDERS: [&str; 2] = ["claude", "codex"];
const BOTTLES: [&str; 3] = ["web", "base", "alone"];

fn step() -> impl Strategy<Value = Step> {
    let admit = (0..BOTTLES.len(), 0..PROVIDERS.len(), prop::bool::weighted(0.9), 0..400_u64, 0..400_u64).prop_map(
        |(bottle, provider, is_metered, input, output)| Step::Admit { bottle, provider, is_metered, input, output },
    );
    let settle = (any::<prop::sample::Index>(), 0..600_u64, 0..600_u64)
        .prop_map(|(which, input, output)| Step::Settle { which, input, output });
    prop_oneof![10 => admit, 8 => settle, 1 => Just(Step::SettleOpen), 1 => Just(Step::Reopen)]
}

/// One exchange as the test remembers it.
struct Exchange {
    permit: PermitId,
    bottle: usize,
    provider: usize,
    held: u64,
    /// What it is settled at when nobody saw its end.
    worst: u64,
    used: Option<u64>,
}

/// The same account kept the slow and obvious way.
struct Model {
    exchanges: Vec<Exchange>,
    precedence: Precedence,
    preflight: Preflight,
}

/// A scope, who counts for it, and its limits for the providers. `web` extends `base`, and `web` and `alone` are run as
/// `reviewer`.
type Laid = (Scope, &'static [usize], [Option<(u64, LimitSource)>; PROVIDERS.len()]);

fn scopes() -> [Laid; 5] {
    let bottle = |name: &str| Scope::Bottle(name.parse().unwrap());
    let settings = |tokens| Some((tokens, LimitSource::Settings));
    [
        (Scope::Agent("reviewer".parse().unwrap()), &[0, 2], [None, settings(1_500)]),
        (bottle("web"), &[0], [Some((2_000, LimitSource::Launch)), None]),
        (bottle("base"), &[0, 1], [settings(3_000), settings(2_500)]),
        (bottle("alone"), &[2], [None, None]),
        (Scope::Host, &[0, 1, 2], [settings(5_000), settings(4_000)]),
    ]
}

impl Model {
    fn chain(&self, bottle: usize, provider: usize) -> Vec<ScopeState> {
        let mut chain: Vec<ScopeState> = scopes()
            .into_iter()
            .filter(|(_, counted, _)| counted.contains(&bottle))
            .map(|(scope, counted, limits)| self.state(scope, counted, limits[provider], provider))
            .collect();
        bind(&mut chain, self.precedence);
        chain
    }

    fn state(&self, scope: Scope, counted: &[usize], limit: Option<(u64, LimitSource)>, provider: usize) -> ScopeState {
        let counts = |exchange: &&Exchange| exchange.provider == provider && counted.contains(&exchange.bottle);
        let lines = || self.exchanges.iter().filter(counts);
        ScopeState {
            limit: limit.map(|(tokens, _)| Tokens(tokens)),
            source: limit.map(|(_, source)| source),
            used: lines().filter_map(|exchange| exchange.used).map(Tokens).sum(),
            held: lines().filter(|exchange| exchange.used.is_none()).map(|exchange| Tokens(exchange.held)).sum(),
            ..ScopeState::of(scope)
        }
    }

    /// Whatever happens, a strict budget is never overshot while providers keep to what was asked for.
    fn assert_strict_budgets_hold(&self) {
        for (scope, counted, limits) in scopes() {
            for (provider, limit) in limits.into_iter().enumerate() {
                let state = self.state(scope.clone(), counted, limit, provider);
                let Some(limit) = state.limit else { continue };
                assert!(state.used + state.held <= limit, "{state:?}");
            }
        }
    }

    fn is_strict(&self) -> bool {
        self.preflight == Preflight::Strict && self.precedence == Precedence::Strict
    }
}

fn laid_down(model: &Model) -> Rules {
    let base = BottleRules { budget: budget(&[("claude", 3_000), ("codex", 2_500)]), ..BottleRules::default() };
    let web = BottleRules { extends: Some("base".parse().unwrap()), ..BottleRules::default() };
    Rules {
        host: budget(&[("claude", 5_000), ("codex", 4_000)]),
        agents: BTreeMap::from([("reviewer".parse().unwrap(), budget(&[("codex", 1_500)]))]),
        bottles: BTreeMap::from([("base".parse().unwrap(), base), ("web".parse().unwrap(), web)]),
        precedence: model.precedence,
        preflight: Preflights { usual: model.preflight, ..Preflights::default() },
        ..Rules::default()
    }
}

async fn launch(world: &World) -> Vec<BottleRow> {
    let mut bottles = Vec::new();
    for name in BOTTLES {
        let agent = (name != "base").then(|| "reviewer".parse().unwrap());
        let amounts: &[(&str, u64)] = if name == "web" { &[("claude", 2_000)] } else { &[] };
        let run = NewRun { agent, ..new_run(name, amounts) };
        bottles.push(world.ledger().begin_run(run, POOL).await.unwrap());
    }
    bottles
}

async fn play(steps: Vec<Step>, precedence: Precedence, preflight: Preflight) {
    let mut model = Model { exchanges: Vec::new(), precedence, preflight };
    let mut world = World::under(laid_down(&model));
    let bottles = launch(&world).await;
    for step in steps {
        match step {
            Step::Admit { bottle, provider, is_metered, input, output } => {
                let (input, output) = if is_metered { (input, output) } else { (0, 0) };
                let want = Want::of(preflight, Tokens(input), Tokens(output));
                let expected = decide(&model.chain(bottle, provider), want);
                let ask = SpendRequest { is_metered, ..reserve(&bottles[bottle], PROVIDERS[provider], input, output) };
                match world.ledger().admit(ask).await.unwrap() {
                    Ok(admitted) => {
                        assert_eq!(expected, Decision::Admit);
                        let (permit, held, worst) = (admitted.permit, want.held.0, input + output);
                        model.exchanges.push(Exchange { permit, bottle, provider, held, worst, used: None });
                    }
                    Err(refusal) => assert_eq!(expected, Decision::Refuse(refusal)),
                }
            }
            Step::Settle { which, input, output } if !model.exchanges.is_empty() => {
                let index = which.index(model.exchanges.len());
                settle_one(&world, &mut model, index, input, output).await;
            }
            Step::Settle { .. } => {}
            Step::SettleOpen => {
                let open = model.exchanges.iter_mut().filter(|exchange| exchange.used.is_none());
                let settled = open.map(|exchange| exchange.used = Some(exchange.worst)).count();
                assert_eq!(world.ledger().settle_open(Ending::ProxyLost).await.unwrap().len(), settled);
            }
            Step::Reopen => world.reopen(),
        }
        if model.is_strict() {
            model.assert_strict_budgets_hold();
        }
    }
    assert_all_is_told(&world, &mut model, &bottles).await;
}

async fn settle_one(world: &World, model: &mut Model, index: usize, input: u64, output: u64) {
    let exchange = &mut model.exchanges[index];
    // A provider that keeps to what was asked for.
    let (input, output) = if model.preflight == Preflight::Strict {
        (input.min(exchange.held), output.min(exchange.held - input.min(exchange.held)))
    } else {
        (input, output)
    };
    let outcome = world.ledger().settle(settle(exchange.permit, input, output)).await;
    if exchange.used.is_some() {
        assert!(matches!(outcome, Err(LedgerError::NoReservation(_))), "{outcome:?}");
        return;
    }
    exchange.used = Some(input + output);
    let chain = model.chain(model.exchanges[index].bottle, model.exchanges[index].provider);
    assert_eq!(outcome.unwrap().crossing, crossed(&chain));
}

/// Reports say what the model knows, totals are the sums of their rows, and once all is quiet nothing is held.
async fn assert_all_is_told(world: &World, model: &mut Model, bottles: &[BottleRow]) {
    world.assert_totals_are_sums();
    for (index, bottle) in bottles.iter().enumerate() {
        for view in world.ledger().budgets(bottle.id).await.unwrap() {
            let provider = PROVIDERS.iter().position(|name| *name == view.provider.as_str()).unwrap();
            assert_eq!(view.chain, model.chain(index, provider));
        }
    }
    world.ledger().settle_open(Ending::ProxyLost).await.unwrap();
    for view in world.ledger().scopes().await.unwrap() {
        assert_eq!(view.state.held, Tokens::ZERO, "{view:?}");
    }
    world.assert_totals_are_sums();
}

fn ways() -> impl Strategy<Value = (Precedence, Preflight)> {
    let precedence = prop_oneof![Just(Precedence::Nearest), Just(Precedence::Strict)];
    (precedence, prop_oneof![Just(Preflight::Estimate), Just(Preflight::Strict), Just(Preflight::Off)])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_interleaving_keeps_the_account_true(steps in prop::collection::vec(step(), 1..100), way in ways()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(play(steps, way.0, way.1));
    }
}
