//! Deaths at chosen places of a daemon that was built to die there (`protocol::fault`).

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::baton::{Baton, Builder};
use crate::programs;
use crate::temp::TempDir;
use crate::wait::{DEADLINE, until};

/// The directory in which places are armed.
#[derive(Debug)]
pub struct Faults(TempDir);

impl Faults {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Faults {
        let directory = TempDir::new();
        // Workers may run as somebody else, and rename what is in it.
        let anybody = fs::Permissions::from_mode(0o777);
        fs::set_permissions(directory.path(), anybody).expect("a directory of ours");
        Faults(directory)
    }

    /// A daemon that looks here.
    pub fn builder(&self) -> Builder {
        Baton::builder()
            .programs(&programs::faulty())
            .environment("BATON_FAULTS", &self.0.path().display().to_string())
    }

    /// Whoever passes the point for the `passes`th time from now on dies there.
    pub fn arm(&self, point: &str, passes: u64) {
        self.arm_as(point, &passes.to_string());
    }

    /// The same, with the kind of death: `1 abort`.
    pub fn arm_as(&self, point: &str, how: &str) {
        let _ = fs::remove_file(self.reached(point));
        // Whole at once: it is read from the moment on at which it is there.
        let draft = self.0.file(&format!(".{point}"), how);
        fs::rename(draft, self.0.path().join(point)).expect("a file of ours");
    }

    pub fn disarm(&self, point: &str) {
        let _ = fs::remove_file(self.0.path().join(point));
    }

    pub fn is_reached(&self, point: &str) -> bool {
        self.reached(point).exists()
    }

    #[track_caller]
    pub fn wait_for(&self, point: &str) {
        // Some are come by once in a round of the traffic, which takes seconds.
        let reached = || self.is_reached(point).then_some(());
        until(&format!("{point} is reached"), 3 * DEADLINE, reached);
    }

    fn reached(&self, point: &str) -> std::path::PathBuf {
        self.0.path().join(format!("{point}.reached"))
    }
}
