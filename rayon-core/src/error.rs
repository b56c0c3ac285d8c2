//! Why a pool could not be made.

use std::error::Error;
use std::{fmt, io};
use unyield::runtime::BuildError;

/// Why a pool could not be made.
#[derive(Debug)]
pub struct ThreadPoolBuildError {
    kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    GlobalExists,
    ThreadInPool,
    Io(io::Error),
}

impl ThreadPoolBuildError {
    pub(crate) fn new(kind: Kind) -> Self {
        ThreadPoolBuildError { kind }
    }

    pub(crate) fn unsupported(why: &'static str) -> Self {
        Self::new(Kind::Io(io::Error::new(io::ErrorKind::Unsupported, why)))
    }
}

impl From<BuildError> for ThreadPoolBuildError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Unavailable(why) => Self::unsupported(why),
            BuildError::Io(error) => Self::new(Kind::Io(error)),
            other => Self::new(Kind::Io(io::Error::other(other))),
        }
    }
}

impl fmt::Display for ThreadPoolBuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            // Programs and rayon's own tests compare these texts.
            Kind::GlobalExists => f.write_str("The global thread pool has already been initialized."),
            Kind::ThreadInPool => f.write_str("The current thread is already part of another thread pool."),
            Kind::Io(error) => error.fmt(f),
        }
    }
}

impl Error for ThreadPoolBuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            Kind::GlobalExists | Kind::ThreadInPool => None,
            Kind::Io(error) => Some(error),
        }
    }
}
