//! Everything that is looked for, compiled once: the built-in detectors, an operator's patterns, and secrets whose value is known.

use aho_corasick::dfa::DFA;
use thiserror::Error;

use crate::domain::Secret;

use super::exact::{SECRET_BYTES_MIN, Written, ways};
use super::found::Filler;
use super::patterns::Patterns;
use super::place::{Letters, Place, Verdict};
use super::shape::{SHAPES, Shape};
use super::{assignment, jwt, pem, shape};

/// So many bytes of what a thing begins with are looked for, the rest looked at.
pub(super) const LITERAL_BYTES_MAX: usize = 16;
/// Ids of AWS's keys: of users, of sessions, of bearers (docs.aws.amazon.com/IAM, "Understanding unique ID prefixes").
const AWS_KEY_IDS: [Shape; 4] = [aws("AKIA"), aws("ASIA"), aws("ABIA"), aws("ACCA")];
const fn aws(beginning: &'static str) -> Shape {
    Shape { name: "aws-access-key", beginning, before: 0, letters: Letters::Upper, least: 16, most: 16 }
}
/// Names of detectors that have no shape.
const AWS_SECRET: &str = "aws-secret-key";
const PRIVATE_KEY: &str = "private-key";
const JWT: &str = "jwt";
const CARD: &str = "credit-card";
/// Comes last: what it finds is often something that has a better name.
const HIGH_ENTROPY: &str = "high-entropy";

/// Why nothing can be looked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DetectorError {
    /// Not a regular expression, or not one that can be looked for in a stream.
    #[error("the pattern of the detector {name:?} cannot be used: {why}")]
    Pattern {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing of this name is built in.
    #[error("{name:?} is no built-in detector: {known} are")]
    Unknown {
        /// What was written.
        name: String,
        /// What might have been.
        known: String,
    },
    /// All together are too much.
    #[error("there is too much to look for: {0}")]
    TooMuch(String),
}

/// Something to look for beside what is built in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sought {
    /// A regular expression.
    Pattern(String),
    /// Exactly this.
    Secret(Secret),
}

/// What to look for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What is built in.
    pub has_built_in: bool,
    /// Less these.
    pub without: Vec<String>,
    /// And these, by name.
    pub sought: Vec<(String, Sought)>,
}

/// Everything that is looked for.
pub struct Detectors {
    names: Vec<String>,
    /// Those before are exact secrets.
    secrets_end: usize,
    pub(super) anchors: Vec<Anchor>,
    pub(super) automaton: Option<DFA>,
    pub(super) patterns: Option<Patterns>,
    pub(super) card: Option<usize>,
}

/// What something begins with.
pub(super) struct Anchor {
    pub(super) detector: usize,
    /// From where it begins to the end of what was noticed.
    pub(super) length: usize,
    check: Check,
}

enum Check {
    Shape(Shape),
    AwsKeyId(Shape),
    AwsSecret(usize),
    PrivateKey,
    Jwt,
    Assignment(usize),
    Written(Written),
}

impl Detectors {
    /// Compiles what is wanted.
    ///
    /// # Errors
    ///
    /// A pattern cannot be used, or a detector to be left out is not known; says which.
    pub fn new(wanted: &Wanted) -> Result<Self, DetectorError> {
        let mut made = Self {
            names: Vec::new(),
            secrets_end: 0,
            anchors: Vec::new(),
            automaton: None,
            patterns: None,
            card: None,
        };
        let mut literals = Vec::new();
        for (name, sought) in &wanted.sought {
            if let Sought::Secret(secret) = sought {
                made.add_secret(name, secret, &mut literals);
            }
        }
        made.secrets_end = made.names.len();
        let mut patterns = Vec::new();
        for (name, sought) in &wanted.sought {
            if let Sought::Pattern(pattern) = sought {
                patterns.push((name.as_str(), pattern.as_str(), made.detector(name)));
            }
        }
        made.patterns = Patterns::new(&patterns)?;
        check_names(&wanted.without)?;
        if wanted.has_built_in {
            made.add_built_in(&wanted.without, &mut literals);
        }
        if !literals.is_empty() || made.card.is_some() {
            let mut builder = DFA::builder();
            let built = builder.ascii_case_insensitive(true).prefilter(false).build(&literals);
            made.automaton = Some(built.map_err(|error| DetectorError::TooMuch(error.to_string()))?);
        }
        Ok(made)
    }

    /// The name of a detector.
    #[must_use]
    pub fn name(&self, detector: usize) -> &str {
        self.names.get(detector).map_or("", String::as_str)
    }

    /// Does it look for one secret, whose value is known?
    #[must_use]
    pub fn is_exact(&self, detector: usize) -> bool {
        detector < self.secrets_end
    }

    /// The first secret whose value is known that stands in a text, whatever has become of its letters' case.
    #[must_use]
    pub fn secret_in_any_case(&self, text: &[u8]) -> Option<usize> {
        let is_in = |anchor: &&Anchor| match &anchor.check {
            Check::Written(written) => written.is_in_any_case(text),
            Check::Shape(_)
            | Check::AwsKeyId(_)
            | Check::AwsSecret(_)
            | Check::PrivateKey
            | Check::Jwt
            | Check::Assignment(_) => false,
        };
        self.anchors.iter().find(is_in).map(|anchor| anchor.detector)
    }

    /// Is there nothing to look for?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.automaton.is_none() && self.patterns.is_none()
    }

    /// The number of a detector of this name.
    fn detector(&mut self, name: &str) -> usize {
        let from = self.secrets_end;
        let known = self.names.iter().skip(from).position(|known| known == name);
        known.map_or_else(
            || {
                self.names.push(name.to_owned());
                self.names.len() - 1
            },
            |index| from + index,
        )
    }

    fn add_secret(&mut self, name: &str, secret: &Secret, literals: &mut Vec<Vec<u8>>) {
        let value = secret.reveal().trim();
        if value.len() < SECRET_BYTES_MIN {
            return;
        }
        let detector = self.detector(name);
        for way in ways(value) {
            let literal = way.bytes.clone();
            self.add(detector, 0, &literal, Check::Written(way), literals);
        }
    }

    fn add_built_in(&mut self, without: &[String], literals: &mut Vec<Vec<u8>>) {
        let is_wanted = |name: &str| !without.iter().any(|left_out| left_out == name);
        for shape in AWS_KEY_IDS.iter().filter(|shape| is_wanted(shape.name)) {
            let detector = self.detector(shape.name);
            self.add(detector, 0, shape.beginning.as_bytes(), Check::AwsKeyId(*shape), literals);
        }
        for shape in SHAPES.iter().filter(|shape| is_wanted(shape.name)) {
            let detector = self.detector(shape.name);
            self.add(detector, shape.before, shape.beginning.as_bytes(), Check::Shape(*shape), literals);
        }
        if is_wanted(CARD) {
            self.card = Some(self.detector(CARD));
        }
        let by_words = |words: &'static [&'static str], check: fn(usize) -> Check| {
            words.iter().map(move |word| (*word, check(word.len())))
        };
        let others = by_words(assignment::AWS_WORDS, Check::AwsSecret)
            .map(|row| (AWS_SECRET, row))
            .chain([(PRIVATE_KEY, (pem::BEGINNING, Check::PrivateKey)), (JWT, (jwt::BEGINNING, Check::Jwt))])
            .chain(by_words(assignment::KEY_WORDS, Check::Assignment).map(|row| (HIGH_ENTROPY, row)));
        for (name, (beginning, check)) in others.filter(|(name, _)| is_wanted(name)) {
            let detector = self.detector(name);
            self.add(detector, 0, beginning.as_bytes(), check, literals);
        }
    }

    fn add(&mut self, detector: usize, before: usize, beginning: &[u8], check: Check, literals: &mut Vec<Vec<u8>>) {
        let literal = beginning.get(..LITERAL_BYTES_MAX).unwrap_or(beginning).to_vec();
        self.anchors.push(Anchor { detector, length: before + literal.len(), check });
        literals.push(literal);
    }
}

impl std::fmt::Debug for Detectors {
    /// Never shows what secrets are.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Detectors").field(&self.names).finish()
    }
}

impl Anchor {
    /// Is it what it looks like?
    pub(super) fn check(&self, place: Place<'_>) -> Verdict {
        match &self.check {
            Check::Shape(shape) => shape::check(shape, place),
            Check::AwsKeyId(shape) => aws_key_id(shape, place),
            Check::AwsSecret(word) => assignment::check_aws(place, *word),
            Check::PrivateKey => pem::check(place),
            Check::Jwt => jwt::check(place),
            Check::Assignment(word) => assignment::check(place, *word),
            Check::Written(written) => written.check(place),
        }
    }

    /// What it is overwritten with.
    pub(super) fn filler(&self) -> Filler {
        if let Check::Written(written) = &self.check { written.filler } else { Filler::Stars }
    }
}

/// The names of what is built in, each once.
#[must_use]
pub fn built_in() -> Vec<&'static str> {
    let mut names = Vec::new();
    let shapes = AWS_KEY_IDS.iter().chain(SHAPES).map(|shape| shape.name);
    for name in shapes.chain([AWS_SECRET, PRIVATE_KEY, JWT, CARD, HIGH_ENTROPY]) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn check_names(names: &[String]) -> Result<(), DetectorError> {
    let known = built_in();
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(DetectorError::Unknown { name: name.clone(), known: known.join(", ") }),
        None => Ok(()),
    }
}

/// An id that a signature names is none that leaks: `AKIA…/20260101/us-east-1/…`.
fn aws_key_id(shape: &Shape, place: Place<'_>) -> Verdict {
    let range = match shape::check(shape, place) {
        Verdict::Found(range) => range,
        verdict @ (Verdict::No | Verdict::More) => return verdict,
    };
    let after = place.moved(range.end);
    let slash = ["/", "%2F", "%2f"].iter().find(|slash| after.rest().starts_with(slash.as_bytes()));
    let date = after.moved(range.end + slash.map_or(0, |slash| slash.len())).run(|byte| byte.is_ascii_digit(), 8);
    match (slash, date.is_open) {
        _ if after.rest().len() < 3 && !place.is_end => Verdict::More,
        (Some(_), true) => Verdict::More,
        (Some(slash), false) if date.end - range.end == slash.len() + 8 => Verdict::No,
        (Some(_) | None, _) => Verdict::Found(range),
    }
}
