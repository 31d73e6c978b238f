//! What is answered where a name server cannot be asked.

const HEADER_BYTES: usize = 12;
/// It is an answer; the bits of the question that stay are the operation and "recursion desired".
const ANSWER: u8 = 0x80;
const KEPT: u8 = 0x79;
/// `SERVFAIL`
const SERVER_FAILURE: u8 = 2;

/// The answer that the server has failed, with the question in it (RFC 1035, §4.1). None for what is no
/// question.
pub(super) fn refusal(question: &[u8]) -> Option<Vec<u8>> {
    let (header, rest) = question.split_first_chunk::<HEADER_BYTES>()?;
    let asked = first_question(rest).unwrap_or_default();
    let mut answer = header[..2].to_vec();
    answer.extend([header[2] & KEPT | ANSWER, SERVER_FAILURE]);
    answer.extend([0, u8::from(!asked.is_empty()), 0, 0, 0, 0, 0, 0]);
    answer.extend(asked);
    Some(answer)
}

/// A name, which ends with an empty label, type and class.
fn first_question(bytes: &[u8]) -> Option<&[u8]> {
    let mut end = 0;
    loop {
        match bytes.get(end)? {
            0 => break,
            // A pointer leads nowhere in the first name.
            length @ 1..64 => end += usize::from(*length) + 1,
            _ => return None,
        }
    }
    bytes.get(..end + 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_holds_the_question_and_nothing_behind_it() {
        let mut question = vec![0xab, 0xcd, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
        let asked = [1, b'a', 2, b'b', b'c', 0, 0, 1, 0, 1];
        question.extend(asked);
        question.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
        let answer = refusal(&question).unwrap();
        assert_eq!(answer[..12], [0xab, 0xcd, 0x81, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(answer[12..], asked);
    }

    #[test]
    fn what_is_cut_short_is_refused_without_a_question() {
        assert_eq!(refusal(&[0; 11]), None);
        for rest in [&[][..], &[3, b'a'], &[0, 0, 1, 0], &[0xc0, 12, 0, 1, 0, 1]] {
            let question = [&[0; 12], rest].concat();
            assert_eq!(refusal(&question).unwrap(), [0, 0, 0x80, 2, 0, 0, 0, 0, 0, 0, 0, 0], "{rest:?}");
        }
    }
}
