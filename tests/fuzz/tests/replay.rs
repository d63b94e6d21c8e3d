//! Calls every target with every file of its corpus.

use std::fs;
use std::path::Path;

#[test]
fn every_corpus_file_passes() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in baton_fuzz::TARGETS {
        let corpus = corpora.join(name);
        let mut replayed = 0;
        for entry in fs::read_dir(&corpus).expect("each target has a corpus") {
            let path = entry.expect("a readable directory").path();
            let data = fs::read(&path).expect("a readable file");
            // The harness shows what a failed test has printed: the file that did it is the last.
            println!("{}", path.display());
            target(&data);
            replayed += 1;
        }
        assert!(replayed > 0, "{} is empty", corpus.display());
    }
}
