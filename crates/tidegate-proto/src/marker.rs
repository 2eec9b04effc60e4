//! What must be able to go to another thread, where there are threads.

/// [`Send`] where there are threads. In a browser's main thread there are none, and what its interfaces give
/// out is not `Send`: there everything has this.
#[cfg(not(all(target_family = "wasm", not(target_feature = "atomics"))))]
pub trait MaybeSend: Send {}
#[cfg(not(all(target_family = "wasm", not(target_feature = "atomics"))))]
impl<T: Send + ?Sized> MaybeSend for T {}

/// [`Send`] where there are threads, which is not here.
#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
pub trait MaybeSend {}
#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
impl<T: ?Sized> MaybeSend for T {}

/// [`Sync`] where there are threads: see [`MaybeSend`].
#[cfg(not(all(target_family = "wasm", not(target_feature = "atomics"))))]
pub trait MaybeSync: Sync {}
#[cfg(not(all(target_family = "wasm", not(target_feature = "atomics"))))]
impl<T: Sync + ?Sized> MaybeSync for T {}

/// [`Sync`] where there are threads, which is not here.
#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
pub trait MaybeSync {}
#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
impl<T: ?Sized> MaybeSync for T {}
