//! What fuzzing has found before, and what it began with: still no finding.

use std::path::Path;

use crate::meter::fuzz::TARGETS;

/// Each target begins with at least so many inputs.
const INPUTS_MIN: usize = 5;

#[test]
fn every_input_of_the_corpus_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    for (name, target) in TARGETS {
        let entries = std::fs::read_dir(corpus.join(name)).unwrap();
        let mut inputs: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        assert!(inputs.len() >= INPUTS_MIN, "{name} has {} inputs", inputs.len());
        for input in inputs {
            // Shown only when it fails.
            println!("{}", input.display());
            target(&std::fs::read(&input).unwrap());
        }
    }
    let known = TARGETS.map(|(name, _)| name);
    for folder in std::fs::read_dir(&corpus).unwrap() {
        let folder = folder.unwrap().file_name();
        // Targets that belong to others are called after their folder, and looked at there.
        let is_of_others = ["git_", "dlp_"].iter().any(|others| folder.to_string_lossy().starts_with(others));
        assert!(
            is_of_others || known.iter().any(|name| *name == folder),
            "{} is the corpus of no target",
            folder.display()
        );
    }
}
