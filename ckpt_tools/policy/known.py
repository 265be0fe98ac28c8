"""Names that are known plain data or known rebuilders: exact (module, name) pairs.

Every entry is here because real files hold it; the comment says which. Nothing is known by package, except
classes in CapWords below the prefixes of :data:`CLASS_TREES`.
"""

from __future__ import annotations

__all__ = ["BIT_GENERATORS", "CLASS_TREES", "ENUMS", "KNOWN", "OLD_STDLIB", "REBUILDERS", "RULES", "WELL_KNOWN"]


def _names(module: str, names: str) -> set[tuple[str, str]]:
    return {(module, name) for name in names.split()}


_BUILTINS = "frozenset complex slice dict bool object"
_SIZED = "set bytearray bytes list tuple range int float str"  # harmless but for absurd arguments
_STORAGES = (
    "DoubleStorage FloatStorage HalfStorage BFloat16Storage LongStorage IntStorage ShortStorage CharStorage "
    "ByteStorage BoolStorage ComplexDoubleStorage ComplexFloatStorage QUInt8Storage QInt8Storage QInt32Storage "
    "QUInt4x2Storage QUInt2x4Storage"
)
_DTYPES = (
    "float64 float32 float16 bfloat16 float8_e5m2 float8_e4m3fn float8_e5m2fnuz float8_e4m3fnuz float8_e8m0fnu "
    "float4_e2m1fn_x2 complex128 complex64 complex32 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool quint8 "
    "qint8 qint32 quint4x2 quint2x4 bits8 bits16 bits1x8 bits2x4 bits4x2 double float half long int short "
    "cdouble cfloat"
)
_QUALITIES = (
    "strided sparse_coo sparse_csr sparse_csc sparse_bsr sparse_bsc jagged _mkldnn contiguous_format preserve_format "
    "channels_last channels_last_3d per_tensor_affine per_channel_affine per_tensor_symmetric per_channel_symmetric "
    "per_channel_affine_float_qparams"
)
_REBUILDERS = (
    "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter _rebuild_parameter_with_state "
    "_rebuild_qtensor _rebuild_sparse_tensor _rebuild_sparse_csr_tensor _rebuild_nested_tensor "
    "_rebuild_meta_tensor_no_storage _rebuild_wrapper_subclass _rebuild_device_tensor_from_numpy "
    "_rebuild_device_tensor_from_cpu_tensor _rebuild_xla_tensor"
)
_PATHS = "PurePath PurePosixPath PureWindowsPath Path PosixPath WindowsPath"
_FUNCTIONAL = (
    "relu relu6 relu_ leaky_relu silu gelu mish hardswish hardsigmoid hardtanh elu selu celu softplus softmax "
    "log_softmax sigmoid tanh logsigmoid glu softsign tanhshrink normalize interpolate adaptive_avg_pool2d "
    "avg_pool2d max_pool2d dropout cross_entropy nll_loss mse_loss l1_loss smooth_l1_loss binary_cross_entropy "
    "binary_cross_entropy_with_logits kl_div huber_loss pad one_hot grid_sample linear conv2d layer_norm "
    "batch_norm embedding cosine_similarity scaled_dot_product_attention"
)

# numpy's sources of random bits, by the modules they live in.
BIT_GENERATORS: frozenset[tuple[str, str]] = frozenset(
    _names("numpy.random._mt19937", "MT19937")
    | _names("numpy.random._pcg64", "PCG64 PCG64DXSM")
    | _names("numpy.random._philox", "Philox")
    | _names("numpy.random._sfc64", "SFC64")
)

# What may rebuild a tensor subclass: the function handed to ``_rebuild_from_type``.
REBUILDERS: frozenset[tuple[str, str]] = frozenset(
    _names("torch._utils", _REBUILDERS) | _names("torch.nested._internal.nested_tensor", "_rebuild_njt")
)

# Enumerations, which are pickled as a call with their value. No other class of a trainer is called with anything.
ENUMS: frozenset[tuple[str, str]] = frozenset(
    _names("torchvision.transforms.functional", "InterpolationMode")  # ultralytics classify
    | _names("torchvision.tv_tensors._bounding_boxes", "BoundingBoxFormat")
    | _names("deepspeed.runtime.zero.config", "ZeroStageEnum")
    | _names("accelerate.utils.dataclasses", "DistributedType PrecisionType DynamoBackend")  # HF training_args.bin
    | _names("transformers.trainer_utils", "HubStrategy IntervalStrategy SaveStrategy SchedulerType EvaluationStrategy "
             "FSDPOption DebugOption")
    | _names("transformers.training_args", "OptimizerNames ParallelMode")
)  # fmt: skip

KNOWN: frozenset[tuple[str, str]] = frozenset(
    _names("builtins", _BUILTINS)
    | _names("__builtin__", _BUILTINS)  # protocol 2, as torch.save writes it
    | _names("collections", "OrderedDict Counter deque")  # every state dict
    | _names("argparse", "Namespace")  # torchvision references, timm, DETR: args
    | _names("types", "SimpleNamespace")
    | _names("datetime", "datetime date time timedelta timezone")
    | _names("pathlib", _PATHS)  # train_args of ultralytics 8.0.x
    | _names("pathlib._local", _PATHS)  # the same written by Python 3.13
    | _names("torch", _DTYPES + " " + _QUALITIES + " Size device SymInt")
    | _names("torch.storage", "TypedStorage _TypedStorage")
    | REBUILDERS
    | {("torch._utils", f"torch.{name}") for name in _QUALITIES.split()}  # memory formats, as protocol 4 spells them
    | _names("torch.serialization", "_get_layout")
    | _names("torch.distributed.tensor", "DTensor Shard Replicate Partial DeviceMesh")  # FSDP2 state dicts
    | _names("torch.distributed.tensor._dtensor_spec", "DTensorSpec TensorMeta ShardOrderEntry")
    | _names("torch.distributed.tensor.placement_types", "Shard Replicate Partial _StridedShard")
    | _names("torch.distributed.device_mesh", "DeviceMesh")
    | _names("torch.torch_version", "TorchVersion")  # version keys
    | _names("torch.nested._internal.nested_tensor", "NestedTensor")  # jagged tensors
    | _names("torch.distributed._mesh_layout", "_MeshLayout _FlatLayout")
    | _names("deepspeed.utils.tensor_fragment", "fragment_address tensor_fragment")  # ZeRO optimizer states
    | _names("torch.jit._pickle", "build_boollist build_doublelist build_intlist build_tensorlist restore_type_tag "
             "build_tensor_from_id")  # TorchScript
    | _names("numpy", "dtype ndarray float64 float32 float16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool_")
    | _names("numpy.core.multiarray", "scalar")  # numpy 1: best_fitness, metrics, RNG states
    | _names("numpy._core.multiarray", "scalar")  # numpy 2
    | _names("ultralytics.nn.modules.head", "v10Detect")  # YOLOv10
    | _names("ultralytics.engine.exporter", "iOSDetectModel")
    | _names("ultralytics.utils", "IterableSimpleNamespace")  # the EMA's args
    | _names("ultralytics.yolo.utils", "IterableSimpleNamespace")
    | {(f"ultralytics.{room}data.augment", name)  # the transforms of a classifier, in files of 8.0.44 and 8.0.200
       for room in ("", "yolo.") for name in ("CenterCrop", "ToTensor")}
    | {(f"ultralytics.{room}utils.loss", f"v8{task}Loss")  # the criterion, in files before 8.4.120
       for room in ("", "yolo.") for task in ("Detection", "Segmentation", "Pose", "Classification", "OBB")}
    | _names("numpy.core.numeric", "_frombuffer")
    | _names("numpy._core.numeric", "_frombuffer")
    | _names("numpy.dtypes", "Float64DType Float32DType Float16DType Int64DType Int32DType Int16DType Int8DType "
             "UInt8DType UInt16DType UInt32DType UInt64DType BoolDType StrDType ObjectDType")
    | _names("numpy.random.bit_generator", "SeedSequence __pyx_unpickle_SeedSequence")
    | BIT_GENERATORS
)  # fmt: skip

# Names whose arguments decide; the rule functions are in judge.py.
RULES: dict[tuple[str, str], str] = {
    **{("torch.nn.functional", name): "value_only" for name in _FUNCTIONAL.split()},  # activations kept as attributes
    **{("torch._C._nn", name): "value_only" for name in ("gelu", "silu", "hardswish", "mish", "leaky_relu")},
    **{(module, name): "modest" for module in ("builtins", "__builtin__") for name in _SIZED.split()},
    ("__builtin__", "xrange"): "modest",
    ("__builtin__", "unicode"): "modest",
    ("__builtin__", "long"): "modest",
    ("builtins", "print"): "value_only",  # mmengine hooks, callbacks
    ("__builtin__", "print"): "value_only",
    ("numpy.core.multiarray", "_reconstruct"): "empty_array",  # every numpy array
    ("numpy._core.multiarray", "_reconstruct"): "empty_array",
    ("_codecs", "encode"): "latin1",  # bytes in protocol 2: numpy scalars everywhere
    ("builtins", "getattr"): "attribute_of_class",  # YOLO11-seg, mmengine
    ("__builtin__", "getattr"): "attribute_of_class",
    ("torch.storage", "_load_from_bytes"): "nested",  # storages pickled by copy.deepcopy or joblib
    ("dill._dill", "_load_type"): "builtin_container",  # ultralytics 8.0.114 to 8.3.0 with dill installed
    ("functools", "partial"): "first_called",  # torchvision and timm modules
    ("collections", "defaultdict"): "first_called",  # optimizer.state of torch, mmengine
    ("copyreg", "_reconstructor"): "first_called",  # protocol 0 and 1 objects
    ("copy_reg", "_reconstructor"): "first_called",
    ("copyreg", "__newobj__"): "first_called",
    ("copy_reg", "__newobj__"): "first_called",
    ("copyreg", "__newobj_ex__"): "first_called",
    ("copy_reg", "__newobj_ex__"): "first_called",
    ("torch._tensor", "_rebuild_from_type"): "rebuilder",  # tensor subclasses
    ("torch._tensor", "_rebuild_from_type_v2"): "rebuilder",
    ("torch.tensor", "_rebuild_from_type"): "rebuilder",  # torch < 1.8
    ("numpy.random._pickle", "__randomstate_ctor"): "bit_generator",  # RNG states
    ("numpy.random._pickle", "__generator_ctor"): "bit_generator",
    ("numpy.random._pickle", "__bit_generator_ctor"): "bit_generator",
    **{
        (module, name): "value_only"  # named in persistent ids and as types of tensors, never called
        for module in ("torch", "torch.cuda", "torch.storage")
        for name in (*_STORAGES.split(), "UntypedStorage", "_UntypedStorage", "Tensor")
    },
}

# Classes in CapWords below these modules are known: they are what the trainers put into their files.
CLASS_TREES: tuple[str, ...] = (
    "torch.nn",
    "torch.optim",
    "torch.ao.nn",
    "ultralytics.nn",
    "ultralytics.utils.loss",
    "ultralytics.utils.tal",
    "ultralytics.yolo.utils.loss",
    "ultralytics.yolo.utils.tal",
    "ultralytics.yolo.nn",
    "models.yolo",
    "models.common",
    "models.experimental",
    "yolov5.models",
    "yolo9.models",
    "yolov6",
    "yolox.models",
    "super_gradients.training",
    "mmengine",
    "mmyolo.models",
    "mmdet.models",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
    "timm.layers",
    "timm.models",
    "lightning.pytorch",
    "lightning.fabric",
    "pytorch_lightning",
    "lightning_fabric",
    "torchmetrics",
    "rfdetr",
    "libreyolo",
    "detectron2.modeling",
    "fvcore.nn",
    "omegaconf",
    "transformers",
    "accelerate",
    "composer",
    "deepspeed",
)

# Packages whose functions are no data: a lower-case name of theirs that is called and not listed is dangerous.
WELL_KNOWN: frozenset[str] = frozenset(
    """
    torch torchvision torchaudio numpy scipy pandas sklearn skimage dill cloudpickle joblib requests urllib3 httpx
    aiohttp pip setuptools pkg_resources wheel _distutils_hack distlib virtualenv conda yaml ruamel jinja2 flask django
    tornado werkzeug fabric paramiko sh plumbum pexpect psutil pty ultralytics yolov5 yolox yolov6 mmengine mmcv mmdet
    mmyolo lightning pytorch_lightning lightning_fabric lightning_utilities torchmetrics timm transformers accelerate
    safetensors huggingface_hub tokenizers datasets fsspec s3fs gcsfs boto3 botocore smart_open PIL cv2 imageio
    matplotlib seaborn plotly bokeh IPython ipykernel jupyter nbformat notebook tensorflow keras jax jaxlib flax optax
    onnx onnxruntime tensorboard tensorboardX wandb mlflow comet_ml clearml ray dask distributed numba llvmlite cupy
    triton networkx sympy mpmath statsmodels xgboost lightgbm catboost spacy nltk gensim tqdm rich click typer fire
    pydantic attr attrs omegaconf hydra deepspeed apex fairscale composer streaming fastai fastcore catalyst ignite
    super_gradients detectron2 fvcore iopath stable_baselines3 gym gymnasium rfdetr libreyolo supervision pytest
    _pytest hypothesis nose mock coverage tox nox twine docutils sphinx babel lxml bs4 html5lib markdown redis
    celery sqlalchemy psycopg2 pymysql pymongo kafka zmq msgpack google cffi pycparser Cython cython pyximport
    cryptography OpenSSL twisted gevent eventlet trio anyio uvloop h5py tables zarr pyarrow polars picklescan fickling
    """.split()
)

# Standard library modules that other Python versions have, or had; ``sys.stdlib_module_names`` adds the rest.
OLD_STDLIB: frozenset[str] = frozenset(
    """
    __builtin__ copy_reg exceptions commands cPickle StringIO cStringIO Queue UserDict UserList urllib2 urlparse
    httplib BaseHTTPServer SimpleHTTPServer SocketServer ConfigParser HTMLParser xmlrpclib DocXMLRPCServer popen2 os2
    dummy_thread _winreg anydbm dbhash whichdb dumbdb robotparser cookielib Cookie Tkinter tkMessageBox thread md5 sha
    new sets rexec compiler user posixfile nt posix ntpath posixpath msvcrt winreg winsound _winapi asynchat asyncore
    imp distutils smtpd binhex formatter parser symbol macpath lib2to3 aifc audioop cgi cgitb chunk crypt imghdr
    mailcap msilib nis nntplib ossaudiodev pipes sndhdr spwd sunau telnetlib uu xdrlib _bootlocale _crypt test idlelib
    ensurepip turtledemo pydoc_data _testcapi _testinternalcapi _xxsubinterpreters _interpreters compression
    annotationlib _pyrepl _colorize _pydatetime _pylong _opcode_metadata _ios_support
    _android_support
    concurrent asyncio ctypes multiprocessing curses dbm email encodings html http importlib json logging
    sqlite3 tkinter unittest urllib venv wsgiref xml xmlrpc zoneinfo tomllib
    """.split()
)
