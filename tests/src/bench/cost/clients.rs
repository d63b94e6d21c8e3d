//! The clients of a load, whoever they are.

use super::driver::Driver;
use super::fan_out::FanOut;
use super::waits::Waits;

pub enum Clients {
    /// Each asks, and is answered.
    Alone(Driver),
    /// What one says is for many.
    Together(FanOut),
}

/// What came of them while it was measured.
#[derive(Default)]
pub struct Got {
    pub waits: Waits,
    /// Of a fan-out: messages that were delivered, and the pieces in which they came, which are as
    /// many as the server's writes.
    pub deliveries: u64,
    pub pieces: u64,
}

impl Clients {
    /// What they were answered, or what was delivered to them.
    pub fn done(&self) -> u64 {
        match self {
            Clients::Alone(driver) => driver.done(),
            Clients::Together(fan_out) => fan_out.done(),
        }
    }

    pub fn measure(&self, on: bool) {
        match self {
            Clients::Alone(driver) => driver.measure(on),
            Clients::Together(fan_out) => fan_out.measure(on),
        }
    }

    /// Lets all hear what they wait for. `Err`: what went wrong.
    pub fn end(self) -> Result<Got, String> {
        match self {
            Clients::Alone(driver) => driver.end(),
            Clients::Together(fan_out) => fan_out.end(),
        }
    }
}

impl Got {
    pub fn merge(&mut self, other: &Got) {
        self.waits.merge(&other.waits);
        self.deliveries += other.deliveries;
        self.pieces += other.pieces;
    }
}
