//! Real workers, whose master is the test ([`master`]): one [`alone`], and connections that move
//! between two ([`moves`]).

mod alone;
mod master;
mod moves;
