"""What a GPU's errors mean, by the text that CUDA, its libraries and torch give them. Imports none of these."""

# torch raises torch.AcceleratorError, a RuntimeError, as "CUDA error: " and the text of cudaGetErrorString; a plain
# RuntimeError as "CUDA error: CUBLAS_STATUS_..." and "cuDNN error: CUDNN_STATUS_..."; and texts of its own while CUDA
# is begun (c10/cuda/CUDAFunctions.cpp, torch/cuda/__init__.py). The texts of CUDA's errors are those of the runtime
# API's enum cudaError, the statuses those of cublasStatus_t and cudnnStatus_t; these have no code that torch would hand
# on, so the texts decide. What is in no row is an ``error`` as any other.

from __future__ import annotations

from jobs.task import Cause

OUT_OF_MEMORY: Cause = "out of memory"
GPU_OUT_OF_MEMORY: Cause = "GPU out of memory"
NO_GPU: Cause = "no GPU"
GPU_FAILURE: Cause = "GPU failure"

# In the order in which they are looked for: a text may hold several.
_CAUSES: tuple[tuple[Cause, tuple[str, ...]], ...] = (
    (
        OUT_OF_MEMORY,
        (
            "DefaultCPUAllocator: can't allocate memory",
            "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        ),
    ),
    (
        GPU_OUT_OF_MEMORY,
        (
            "CUDA out of memory",  # torch's allocator
            "CUDA error: out of memory",  # cudaErrorMemoryAllocation: of a context or a module, past the allocator
            "CUBLAS_STATUS_ALLOC_FAILED",
            "CUDNN_STATUS_ALLOC_FAILED",  # before cuDNN 9
            "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            "CUSPARSE_STATUS_ALLOC_FAILED",
            "CURAND_STATUS_ALLOCATION_FAILED",
            # The allocator, out of memory, asks NVML how much there is; a MIG slice and some containers refuse that.
            "NVML_SUCCESS == r INTERNAL ASSERT FAILED",
        ),
    ),
    (
        GPU_FAILURE,
        (
            "uncorrectable ECC error encountered",  # cudaErrorECCUncorrectable
            "uncorrectable NVLink error",  # cudaErrorNvlinkUncorrectable
            "unspecified launch failure",  # cudaErrorLaunchFailure
            "the launch timed out and was terminated",  # cudaErrorLaunchTimeout
            "hardware stack error",  # cudaErrorHardwareStackError
            "busy or unavailable",  # cudaErrorDevicesUnavailable: another process has it, or it awaits a reset
            "exclusive-thread device already in use",  # cudaErrorDeviceAlreadyInUse
            "context is destroyed",  # cudaErrorContextIsDestroyed
            "CUDA error: unknown error",  # cudaErrorUnknown: one that fell off the bus says so
            "GPU is lost",  # NVML_ERROR_GPU_IS_LOST
            "fallen off the bus",
            "MPS client failed to connect",  # cudaErrorMpsConnectionFailed
            "between the MPS server and the MPS client failed",  # cudaErrorMpsRpcFailure
            "MPS server is not ready",  # cudaErrorMpsServerNotReady
            "required to create MPS client have been exhausted",  # cudaErrorMpsMaxClientsReached
            "device connections have been exhausted",  # cudaErrorMpsMaxConnectionsReached
            "MPS client has been terminated",  # cudaErrorMpsClientTerminated
            "CUBLAS_STATUS_NOT_INITIALIZED",
            "CUBLAS_STATUS_EXECUTION_FAILED",
            "CUDNN_STATUS_NOT_INITIALIZED",
            "CUDNN_STATUS_EXECUTION_FAILED",
            "CUDNN_STATUS_MAPPING_ERROR",
        ),
    ),
    (
        NO_GPU,
        (
            "no CUDA-capable device is detected",  # cudaErrorNoDevice
            "No CUDA GPUs are available",
            "Found no NVIDIA driver on your system",
            "NVIDIA driver on your system is too old",
            "CUDA driver version is insufficient for CUDA runtime version",  # cudaErrorInsufficientDriver
            "API call is not supported in the installed CUDA driver",  # cudaErrorCallRequiresNewerDriver
            "compiled with an unsupported toolchain",  # cudaErrorUnsupportedPtxVersion: the driver is too old for it
            "no kernel image is available for execution on the device",  # cudaErrorNoKernelImageForDevice
            "unsupported display driver / cuda driver combination",  # cudaErrorSystemDriverMismatch
            "system not yet initialized",  # cudaErrorSystemNotReady: the fabric manager does not run
            "forward compatibility was attempted on non supported HW",  # cudaErrorCompatNotSupportedOnDevice
            "CUDA driver is a stub library",  # cudaErrorStubLibrary
            "CUDA error: initialization error",  # cudaErrorInitializationError
            "CUDA error: invalid device ordinal",  # cudaErrorInvalidDevice
            "CUDA unknown error",
            "Unexpected error from cudaGetDeviceCount",
            "Driver/library version mismatch",  # NVML_ERROR_LIB_RM_VERSION_MISMATCH: the driver was updated under it
            "Torch not compiled with CUDA enabled",
            "PyTorch was compiled without CUDA support",
        ),
    ),
)
# A fault of a kernel, of ours most likely. Under MPS, though, what one client does ends all that share the GPU.
_FAULTS = (
    "an illegal memory access was encountered",
    "device-side assert triggered",
    "misaligned address",
    "an illegal instruction was encountered",
    "operation not supported on global/shared address space",
    "invalid program counter",
)


def cause_of(text: str, *, shared: bool = False) -> Cause | None:
    """The cause that an error's text stands for, one of ``jobs.task.CAUSES``; None for one that is not a GPU's.

    ``shared`` says that other tasks compute on the same GPU: a fault that may be theirs is a ``GPU failure`` then.
    """
    for cause, texts in _CAUSES:
        if any(part in text for part in texts):
            return cause
    return GPU_FAILURE if shared and any(part in text for part in _FAULTS) else None
