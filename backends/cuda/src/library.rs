//! NVRTC's C interface: the functions that are used, with their errors and buffers in Rust's terms.
#![allow(unsafe_code, reason = "NVRTC is a C library, loaded at run time")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr;

type Code = c_int;
type Handle = *mut c_void;
type SizeOf = unsafe extern "C" fn(Handle, *mut usize) -> Code;
type BytesOf = unsafe extern "C" fn(Handle, *mut c_char) -> Code;

/// A call that failed.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) function: &'static str,
    pub(crate) reason: String,
}

/// The loaded library.
pub(crate) struct Library {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Code,
    error_string: unsafe extern "C" fn(Code) -> *const c_char,
    arch_count: unsafe extern "C" fn(*mut c_int) -> Code,
    archs: unsafe extern "C" fn(*mut c_int) -> Code,
    create: unsafe extern "C" fn(
        *mut Handle,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Code,
    destroy: unsafe extern "C" fn(*mut Handle) -> Code,
    compile: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> Code,
    log: (SizeOf, BytesOf),
    cubin: (SizeOf, BytesOf),
    ptx: (SizeOf, BytesOf),
    /// Never unloaded: it keeps threads and globals of its own, and the functions above point into it.
    _library: ManuallyDrop<libloading::Library>,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Library")
    }
}

impl Library {
    /// Loads it, or says why that cannot be.
    pub(crate) fn load(path: &Path) -> Result<Library, String> {
        // SAFETY: the initialisers of NVRTC, which is what a file of this name is, have no preconditions.
        let library = unsafe { libloading::Library::new(path) }.map_err(|error| error.to_string())?;
        let library = ManuallyDrop::new(library);
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the type is that of the declaration in nvrtc.h, the same in all versions since 11.2, and the
                // library stays loaded for as long as the process runs.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }
                    .map_err(|_| concat!("it has no function `", $name, "`").to_owned())?
            };
        }
        Ok(Library {
            version: function!("nvrtcVersion"),
            error_string: function!("nvrtcGetErrorString"),
            arch_count: function!("nvrtcGetNumSupportedArchs"),
            archs: function!("nvrtcGetSupportedArchs"),
            create: function!("nvrtcCreateProgram"),
            destroy: function!("nvrtcDestroyProgram"),
            compile: function!("nvrtcCompileProgram"),
            log: (function!("nvrtcGetProgramLogSize"), function!("nvrtcGetProgramLog")),
            cubin: (function!("nvrtcGetCUBINSize"), function!("nvrtcGetCUBIN")),
            ptx: (function!("nvrtcGetPTXSize"), function!("nvrtcGetPTX")),
            _library: library,
        })
    }

    /// Major and minor version.
    pub(crate) fn version(&self) -> Result<(i32, i32), String> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both point to integers that live through the call.
        let code = unsafe { (self.version)(&mut major, &mut minor) };
        self.check("nvrtcVersion", code).map_err(|call| call.reason)?;
        Ok((major, minor))
    }

    /// Numbers of the architectures that it compiles for.
    pub(crate) fn architectures(&self) -> Result<Vec<i32>, Call> {
        let mut count = 0;
        // SAFETY: the pointer is to an integer that lives through the call.
        let code = unsafe { (self.arch_count)(&mut count) };
        self.check("nvrtcGetNumSupportedArchs", code)?;
        let mut archs = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: there is room for as many integers as the call before said.
        let code = unsafe { (self.archs)(archs.as_mut_ptr()) };
        self.check("nvrtcGetSupportedArchs", code)?;
        Ok(archs)
    }

    /// A program to be compiled.
    pub(crate) fn program(&self, source: &CStr, name: &CStr) -> Result<Program<'_>, Call> {
        let mut handle = ptr::null_mut();
        // SAFETY: source and name end with zero and are copied by the call; there are no headers, so their lists may
        // be null.
        let code = unsafe {
            (self.create)(&mut handle, source.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null())
        };
        self.check("nvrtcCreateProgram", code)?;
        Ok(Program { library: self, handle, _one_thread: PhantomData })
    }

    fn check(&self, function: &'static str, code: Code) -> Result<(), Call> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: any number will do, and the answer is a constant text of the library.
        let text = unsafe { CStr::from_ptr((self.error_string)(code)) };
        Err(Call { function, reason: text.to_string_lossy().into_owned() })
    }
}

/// A program of NVRTC; only the thread that made it may use it.
pub(crate) struct Program<'a> {
    library: &'a Library,
    handle: Handle,
    _one_thread: PhantomData<*const ()>,
}

impl Program<'_> {
    /// Compiles it. The log says why that failed.
    pub(crate) fn compile(&self, options: &[CString]) -> Result<(), Call> {
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).unwrap_or(c_int::MAX);
        // SAFETY: the handle is valid until `drop`; the list has `count` texts, which `options` owns through the call.
        let code = unsafe { (self.library.compile)(self.handle, count, pointers.as_ptr()) };
        self.library.check("nvrtcCompileProgram", code)
    }

    /// What the compiler said.
    pub(crate) fn log(&self) -> Result<String, Call> {
        let bytes = self.bytes("nvrtcGetProgramLog", self.library.log)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.trim_end_matches(['\0', '\n']).to_owned())
    }

    /// Machine code.
    pub(crate) fn cubin(&self) -> Result<Vec<u8>, Call> {
        self.bytes("nvrtcGetCUBIN", self.library.cubin)
    }

    /// PTX, with the zero at its end.
    pub(crate) fn ptx(&self) -> Result<Vec<u8>, Call> {
        self.bytes("nvrtcGetPTX", self.library.ptx)
    }

    fn bytes(&self, function: &'static str, (size_of, bytes_of): (SizeOf, BytesOf)) -> Result<Vec<u8>, Call> {
        let mut size = 0;
        // SAFETY: the handle is valid until `drop`, and the pointer is to an integer that lives through the call.
        let code = unsafe { size_of(self.handle, &mut size) };
        self.library.check(function, code)?;
        let mut bytes = vec![0_u8; size];
        // SAFETY: as before, and there is room for as many bytes as the call before said.
        let code = unsafe { bytes_of(self.handle, bytes.as_mut_ptr().cast()) };
        self.library.check(function, code)?;
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // A failure would leave some memory behind, which is all that could be said about it.
        // SAFETY: the handle was made by `nvrtcCreateProgram` and is not used any more.
        let _ = unsafe { (self.library.destroy)(&mut self.handle) };
    }
}
