//! Real workers, whose master is the test ([`master`]): one [`alone`], connections that move
//! between two ([`moves`]), a master of another version ([`neighbours`]), and one whose memory is
//! [`corrupt`].

mod alone;
mod corrupt;
mod master;
mod moves;
mod neighbours;
