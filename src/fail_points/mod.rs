//! Places where a test makes the process fail. Without the feature `fail-points` they are nothing.
//!
//! The variable `FAILPOINTS` says what happens where (see the crate `fail`), such as
//! `after-settle=2*off->return`: before and after a [`Step`], `return` aborts the process.

mod step;

pub(crate) use step::Step;

/// Reads `FAILPOINTS`, for as long as the process lives.
pub(crate) fn set_up() {
    if fail::has_failpoints() {
        std::mem::forget(fail::FailScenario::setup());
    }
}

/// Just before a durable step.
pub(crate) fn before(step: Step) {
    may_abort("before", step);
}

/// Just after a durable step.
pub(crate) fn after(step: Step) {
    may_abort("after", step);
}

fn may_abort(_moment: &str, step: Step) {
    let _name = step.name();
    fail::fail_point!(&format!("{_moment}-{_name}"), |_| std::process::abort());
}

/// Whether nobody is to hear of a commit that was made: `unanswered-settle=1*return`.
pub(crate) fn is_unanswered(_step: Step) -> bool {
    let _name = _step.name();
    fail::fail_point!(&format!("unanswered-{_name}"), |_| true);
    false
}

/// Whether something is silently left out: `lost-look=4*return`.
pub(crate) fn is_lost(_what: &str) -> bool {
    fail::fail_point!(&format!("lost-{_what}"), |_| true);
    false
}

/// Hangs for a number of seconds: `lost-lookup=12*return`.
pub(crate) async fn hang(what: &str) {
    while is_lost(what) {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

/// A place in an actor, which can be told to `panic`.
pub(crate) fn place(_name: &str) {
    fail::fail_point!(_name);
}

/// An event begins: `turn=return(9001)` panics at every event of this message.
pub(crate) fn turn(_message: i64) {
    fail::fail_point!("turn", |wanted| assert!(!is(wanted, _message), "as the fail point asks"));
}

/// An outcome is taken in: `outcome=return(9001)` panics at every one of this message.
pub(crate) fn outcome(_message: i64) {
    fail::fail_point!("outcome", |wanted| assert!(!is(wanted, _message), "as the fail point asks"));
}

/// A request is built: `own-work=return(9001)` aborts the process at every one of this message.
pub(crate) fn own_work(_message: i64) {
    fail::fail_point!("own-work", |wanted| if is(wanted, _message) {
        std::process::abort()
    });
}

/// An answer is read: `answer=return(9001)` aborts the process at every one of this message.
pub(crate) fn answer(_message: i64) {
    fail::fail_point!("answer", |wanted| if is(wanted, _message) {
        std::process::abort()
    });
}

#[cfg(feature = "fail-points")]
fn is(wanted: Option<String>, message: i64) -> bool {
    wanted.and_then(|wanted| wanted.parse().ok()) == Some(message)
}

/// By how many milliseconds the machine's clock is made to go wrong: `clock=return(30000)`.
pub(crate) fn clock_error() -> i64 {
    fail::fail_point!("clock", |wrong| wrong.and_then(|wrong| wrong.parse().ok()).unwrap_or(0));
    0
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn sources(folder: &Path) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                found.extend(sources(&path));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.display().to_string(), fs::read_to_string(&path).expect("a source")));
            }
        }
        found
    }

    fn product() -> Vec<(String, String)> {
        let mut sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        sources.retain(|(path, _)| !path.contains("fail_points"));
        sources
    }

    #[test]
    fn every_durable_step_has_fail_points() {
        for (path, text) in product() {
            let commits = text.matches(".commit()").count();
            assert_eq!(
                commits,
                usize::from(path.ends_with("store/mod.rs")),
                "{path}: commit with Store::write"
            );
            assert!(!text.contains("db().execute"), "{path}: use a transaction");
            assert!(!text.contains(".insert(self.db())") && !text.contains(".exec(self.db())"), "{path}");
        }
    }

    #[test]
    fn whatever_the_store_writes_it_commits_as_a_step() {
        for (path, text) in product().into_iter().filter(|(path, _)| path.contains("src/store/")) {
            for function in text.split("async fn ").skip(1) {
                let name = function.split(['(', '<']).next().unwrap_or_default();
                let writes = ["INSERT INTO", "UPDATE outhook", "UPDATE zerver", "DELETE FROM"];
                let is_alone =
                    function.contains(".db()") && writes.iter().any(|verb| function.contains(verb));
                let has_step = function.contains(".write");
                assert!(!is_alone || has_step, "{path}: {name} writes without a transaction and a step");
            }
        }
    }

    #[test]
    fn every_step_is_taken_somewhere_and_has_a_name_of_its_own() {
        let sources = product();
        for (at, step) in Step::ALL.iter().enumerate() {
            let used = format!("Step::{step:?}");
            assert!(sources.iter().any(|(_, text)| text.contains(&used)), "{used} is nowhere");
            assert!(Step::ALL[..at].iter().all(|other| other.name() != step.name()), "{used}");
        }
    }
}
