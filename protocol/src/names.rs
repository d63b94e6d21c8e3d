//! Names of users, one behind the other, as they lie in a record: length (a byte) and bytes.

/// Bytes of one at most.
pub const MAX_NAME: usize = u8::MAX as usize;

/// Some names; which they are was checked when they were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names<'a>(&'a [u8]);

/// Adds a name to those that are there. One that is empty or too long is none.
pub fn put(into: &mut Vec<u8>, name: &[u8]) {
    if let Ok(len @ 1..) = u8::try_from(name.len()) {
        into.push(len);
        into.extend_from_slice(name);
    }
}

impl<'a> Names<'a> {
    /// `None`: these bytes are not what [`put`] makes, of UTF-8.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Names<'a>> {
        let mut rest = bytes;
        while let Some((len, behind)) = rest.split_first() {
            let (name, behind) = behind.split_at_checked(usize::from(*len))?;
            if name.is_empty() || std::str::from_utf8(name).is_err() {
                return None;
            }
            rest = behind;
        }
        Some(Names(bytes))
    }

    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn len(self) -> usize {
        self.iter().count()
    }

    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (len, behind) = rest.split_first()?;
            let name;
            (name, rest) = behind.split_at_checked(usize::from(*len))?;
            Some(name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn come_back_and_nothing_else_does() {
        let mut bytes = Vec::new();
        let long = "ü".repeat(99);
        let names = ["u7", &long, "c1"];
        names
            .iter()
            .for_each(|name| put(&mut bytes, name.as_bytes()));
        put(&mut bytes, b"");
        put(&mut bytes, &[b'x'; 256]);
        let read = Names::read(&bytes).unwrap();
        assert_eq!(read.len(), 3);
        assert!(read.iter().eq(names.map(str::as_bytes)));
        let ends = [0, 3, 3 + 199, bytes.len()];
        for len in 0..bytes.len() {
            assert_eq!(Names::read(&bytes[..len]).is_some(), ends.contains(&len));
        }
        assert_eq!(Names::read(&[0]), None);
        assert_eq!(Names::read(&[1, 0xff]), None);
    }
}
