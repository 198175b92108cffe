//! Plans of calls: arguments that were checked once are known again, by the objects themselves or by what they say.

use super::array::Object;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString, PyTuple};
use std::sync::{Arc, Mutex, PoisonError};

/// Plans that are kept: those that were used last, which stand first.
const MOST: usize = 256;

/// Plans of one kind of call.
pub struct Plans<P>(Mutex<Vec<Arc<P>>>);

impl<P> Default for Plans<P> {
    fn default() -> Self {
        Plans(Mutex::default())
    }
}

impl<P> Plans<P> {
    /// The plan whose arguments a call has, if there is one: `fits` compares them.
    pub fn find(&self, fits: impl Fn(&P) -> bool) -> Option<Arc<P>> {
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = plans.iter().position(|plan| fits(plan))?;
        plans.swap(0, found);
        Some(plans[0].clone())
    }

    /// Keeps a plan.
    pub fn keep(&self, plan: P) {
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = if plans.len() < MOST { None } else { plans.pop() };
        plans.insert(0, Arc::new(plan));
        drop(plans); // what lets go of the last may call Python, and that this
        drop(last);
    }
}

/// True for arguments that stay what they are: a list would be the same object when its content is another.
pub fn is_lasting(arguments: &Bound<'_, PyTuple>) -> bool {
    arguments.hash().is_ok()
}

/// True for one object, and for texts, whole numbers and tuples of these that say the same; nothing of Python's is called.
pub fn same(known: &Object<'_>, given: &Object<'_>) -> bool {
    if known.is(given) {
        true
    } else if let (Ok(known), Ok(given)) = (known.cast_exact::<PyString>(), given.cast_exact::<PyString>()) {
        known.to_str().is_ok_and(|known| given.to_str().is_ok_and(|given| known == given))
    } else if let (Ok(known), Ok(_)) = (known.cast_exact::<PyInt>(), given.cast_exact::<PyInt>()) {
        known.as_any().eq(given).unwrap_or(false)
    } else if let (Ok(known), Ok(given)) = (known.cast_exact::<PyTuple>(), given.cast_exact::<PyTuple>()) {
        known.len() == given.len() && known.iter().zip(given).all(|(known, given)| same(&known, &given))
    } else {
        false
    }
}
