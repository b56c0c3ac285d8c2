//! Reports to stderr: written by a raw system call, never through std's locked handle, so that no fiber's lock is needed.

/// Writes one line. Any context: no allocation, no lock.
pub(crate) fn say(message: &str) {
    say_parts(&[message]);
}

/// Writes the parts as one line, with one system call if they fit.
pub(crate) fn say_parts(parts: &[&str]) {
    let mut line = Line::new();
    line.push("unyield: ");
    for part in parts {
        line.push(part);
    }
    line.push("\n");
    line.write();
}

/// A line on the stack; what does not fit is cut off.
pub(crate) struct Line {
    bytes: [u8; 1024],
    len: usize,
}

impl Line {
    pub(crate) fn new() -> Self {
        Line { bytes: [0; 1024], len: 0 }
    }

    pub(crate) fn push(&mut self, text: &str) {
        let n = text.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + n].copy_from_slice(&text.as_bytes()[..n]);
        self.len += n;
    }

    /// In decimal.
    pub(crate) fn push_number(&mut self, mut number: u64) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push(std::str::from_utf8(&digits[at..]).unwrap_or("?"));
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(crate) fn write(&self) {
        // SAFETY: writes initialised bytes of this object.
        unsafe { libc::write(2, self.bytes.as_ptr().cast(), self.len) };
    }
}
