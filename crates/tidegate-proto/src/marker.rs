//! Bounds for types that must be able to move between threads, where there are threads.

/// [`Send`] where there are threads. A browser's main thread is alone, and the browser's interfaces
/// are not `Send`: there, all types have this marker.
#[cfg(not(all(target_family = "wasm", not(target_feature = "atomics"))))]
pub trait MaybeSend: Send {}
#[cfg(not(all(target_family = "wasm", not(target_feature = "atomics"))))]
impl<T: Send + ?Sized> MaybeSend for T {}

/// [`Send`] where there are threads; this target has none.
#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
pub trait MaybeSend {}
#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
impl<T: ?Sized> MaybeSend for T {}

/// [`Sync`] where there are threads: see [`MaybeSend`].
#[cfg(not(all(target_family = "wasm", not(target_feature = "atomics"))))]
pub trait MaybeSync: Sync {}
#[cfg(not(all(target_family = "wasm", not(target_feature = "atomics"))))]
impl<T: Sync + ?Sized> MaybeSync for T {}

/// [`Sync`] where there are threads; this target has none.
#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
pub trait MaybeSync {}
#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
impl<T: ?Sized> MaybeSync for T {}
