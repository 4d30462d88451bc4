//! A driver's library, opened at run time.

use crate::error::GpuError;
use std::ffi::OsString;
use std::mem::ManuallyDrop;
use std::path::PathBuf;

/// Which device to use, and where its driver is.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Number of the device, from 0, as the driver counts.
    pub ordinal: u32,
    /// The driver's library, where the system does not find it by its name. Comes before the environment's.
    pub library: Option<PathBuf>,
    /// Bytes of each of the [`STAGING_COUNT`](crate::STAGING_COUNT) pinned buffers of the host that weights go through;
    /// 0 for [`STAGING_BYTES`](crate::STAGING_BYTES). They are given back when the weights are there.
    pub staging_bytes: usize,
}

/// A device that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What [`GpuOptions::ordinal`] takes.
    pub ordinal: u32,
    /// The vendor's name for it.
    pub name: String,
    /// Its architecture, as `--target` takes it; empty if unknown.
    pub arch: String,
}

/// An open library. It is never closed: drivers start threads that do not survive it.
#[derive(Debug)]
pub struct Library {
    library: ManuallyDrop<libloading::Library>,
    name: String,
    install: &'static str,
}

impl Library {
    /// Opens the library that `options` name, else the one of the environment variable `variable`, else the first of
    /// `names` that there is. `install` says what to do where there is none.
    ///
    /// # Errors
    ///
    /// [`GpuError::Library`], with the first name's error.
    pub fn open(
        options: &GpuOptions,
        variable: &str,
        names: &[&str],
        install: &'static str,
    ) -> Result<Library, GpuError> {
        let given =
            options.library.clone().map(PathBuf::into_os_string).or_else(|| std::env::var_os(variable));
        let names = given.map_or_else(|| names.iter().map(OsString::from).collect(), |given| vec![given]);
        let mut first = None;
        for name in &names {
            // SAFETY: the vendor's driver, or what the user names in its place: its initialisers are trusted as the
            // driver itself is.
            match unsafe { libloading::Library::new(name) } {
                Ok(library) => {
                    return Ok(Library {
                        library: ManuallyDrop::new(library),
                        name: name.to_string_lossy().into_owned(),
                        install,
                    });
                }
                Err(error) => {
                    let library = name.to_string_lossy().into_owned();
                    first.get_or_insert(GpuError::Library { library, error: error.to_string(), install });
                }
            }
        }
        Err(first.unwrap_or(GpuError::Library {
            library: String::new(),
            error: "no name".to_owned(),
            install,
        }))
    }

    /// A function of the library.
    ///
    /// # Safety
    ///
    /// `F` is a function pointer of the type that the library gives the function.
    ///
    /// # Errors
    ///
    /// Where there is none of this name.
    pub unsafe fn function<F: Copy>(&self, name: &str) -> Result<F, GpuError> {
        // SAFETY: the caller's promise; the library stays open.
        let symbol = unsafe { self.library.get::<F>(name) };
        symbol.map(|symbol| *symbol).map_err(|_| GpuError::Function {
            library: self.name.clone(),
            function: name.to_owned(),
            install: self.install,
        })
    }
}

/// Declares a table of a library's functions, with a function `load` that fills it.
#[macro_export]
macro_rules! functions {
    ($(#[$doc:meta])* struct $table:ident { $($name:ident: fn($($arg:ty),* $(,)?) -> $result:ty;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[allow(non_snake_case, reason = "the driver's own names")]
        pub(crate) struct $table {
            $(pub(crate) $name: unsafe extern "system" fn($($arg),*) -> $result,)*
        }

        impl $table {
            /// Finds all of them.
            fn load(library: &$crate::Library) -> Result<$table, $crate::GpuError> {
                // SAFETY: the types are those of the vendor's header.
                Ok($table { $($name: unsafe { library.function(stringify!($name)) }?,)* })
            }
        }
    };
}
