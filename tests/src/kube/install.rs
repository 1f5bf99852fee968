//! Kith, installed as people install it.
