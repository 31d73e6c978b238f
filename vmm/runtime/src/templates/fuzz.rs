//! Files of templates that nobody of us has written.

use super::file::{STATE, Saved, WORKING_SET, decode, encode};
use super::working_set::Kept;

/// Whole ones.
pub(crate) fn file(bytes: &[u8]) {
    let _ = decode::<Kept>(bytes, WORKING_SET);
    let Ok(saved) = decode::<Saved>(bytes, STATE) else { return };
    vmrun_machine::fuzz::restore(&saved.state, &[]);
    let written = postcard::to_stdvec(&saved).expect("what was read can be written");
    let again = decode::<Saved>(&encode(STATE, &written), STATE).expect("and read again");
    assert_eq!(postcard::to_stdvec(&again).as_ref(), Ok(&written));
}

/// What is behind a header that fits.
pub(crate) fn payload(bytes: &[u8]) {
    file(&encode(STATE, bytes));
    file(&encode(WORKING_SET, bytes));
}
