//! How many tokens of input a request is, said before it is admitted.
//!
//! Nothing is asked unless `preflight: exact` says so, and then about every metered request whose provider counts: the proxy
//! knows no budgets. Whatever goes wrong, the request is estimated instead; nobody waits longer than [`COUNT_TIME_MAX`] for
//! a count.

mod endpoint;

use thiserror::Error;

use crate::domain::{Tokens, with_causes};
use crate::meter::Ask;

use super::limits::{COUNT_ANSWER_BYTES_MAX, COUNT_TIME_MAX};
use super::link::NoAnswer;

pub(super) use endpoint::{Asked, Endpoint};

/// How many tokens of input `ask` is, by whoever says it best.
pub(super) async fn input(endpoint: Option<Endpoint<'_>>, ask: &Ask) -> Tokens {
    let estimator = Estimator(ask);
    let counted = match &endpoint {
        Some(endpoint) => endpoint.count_tokens().await,
        None => estimator.count_tokens().await,
    };
    counted.unwrap_or_else(|error| {
        tracing::debug!(error = with_causes(&error), "a request is not counted but estimated");
        estimator.tokens()
    })
}

/// Whoever can say how many tokens of input a request is.
trait Provider {
    /// Says it.
    fn count_tokens(&self) -> impl Future<Output = Result<Tokens, NotCounted>> + Send;
}

/// What is known without asking anyone.
#[derive(Debug)]
struct Estimator<'a>(&'a Ask);

impl Estimator<'_> {
    fn tokens(&self) -> Tokens {
        self.0.input_estimate
    }
}

impl Provider for Estimator<'_> {
    async fn count_tokens(&self) -> Result<Tokens, NotCounted> {
        Ok(self.tokens())
    }
}

/// Why a provider has not counted a request.
#[derive(Debug, Error)]
enum NotCounted {
    /// The ledger grants nothing for the question.
    #[error("the question is not admitted")]
    NotAdmitted,
    /// Nor does it answer.
    #[error(transparent)]
    NoController(#[from] NoAnswer),
    /// The question cannot be put.
    #[error("the question is malformed, lacks its credential, or is too much to hold")]
    NotPut,
    /// Its address is none.
    #[error("the question is malformed")]
    Malformed(#[from] http::Error),
    /// The provider was not reached.
    #[error("the provider did not answer")]
    Unreached(#[from] hyper_util::client::legacy::Error),
    /// It says no.
    #[error("the provider answered with status {0}")]
    Status(u16),
    /// It says too much, or broke off.
    #[error("the answer is broken or longer than {COUNT_ANSWER_BYTES_MAX} bytes")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It says something else.
    #[error("the answer holds no count")]
    Unread,
    /// It thinks too long.
    #[error("the provider did not count within {COUNT_TIME_MAX:?}")]
    TimedOut,
}
