pub struct Timers {
    at: std::collections::BTreeSet<(u64, u32)>,
}
impl Timers {
    pub fn new(_: u64) -> Self {
        Timers {
            at: Default::default(),
        }
    }
    pub fn schedule(&mut self, slot: u32, at: u64) {
        self.at.insert((at, slot));
    }
    pub fn next(&self, _now: u64) -> Option<u64> {
        self.at.first().map(|x| x.0)
    }
    pub fn expired(&mut self, now: u64, f: &mut impl FnMut(u32) -> Option<u64>) {
        while let Some(&(at, slot)) = self.at.first() {
            if at > now {
                break;
            }
            self.at.pop_first();
            if let Some(n) = f(slot) {
                self.at.insert((n, slot));
            }
        }
    }
}
