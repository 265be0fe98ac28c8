"""Names that are known plain data or known rebuilders: exact (module, name) pairs, each with the rule on its calls.

Every entry is here because real files hold it; the comment says which. Nothing is known by package, except classes in
CapWords below the prefixes of :data:`CLASS_TREES` and the few patterns of :data:`PATTERNS`. The rules are functions in
``rules.py``; this page is data.
"""

from __future__ import annotations

__all__ = [
    "BARE", "BIT_GENERATORS", "CLASS_TREES", "DATA_TREES", "DUCK_NAMES", "EFFECTS_OF_IMPORT",
    "EVALUATED", "EXECUTABLES", "KNOWN", "LAYER_NAME", "MODEL_NAMES", "MODEL_TREES",
    "NAMED_TYPES", "NOT_LAYERS", "OLD_STDLIB",
    "OPENERS", "OPENING_NAMES", "PATTERNS", "REBUILDERS", "SHARED", "WELL_KNOWN",
]  # fmt: skip

Names = frozenset[tuple[str, str]]


def _names(module: str, names: str) -> Names:
    return frozenset((module, name) for name in names.split())


def _in_each(modules: str, names: str) -> Names:
    return frozenset((module, name) for module in modules.split() for name in names.split())


_BUILTINS = "builtins __builtin__"  # by the names of Python 3, and of Python 2 as protocol 2 writes them
_PLAIN_TYPES = "complex slice bool object range int float"
_OF_ITEMS = "set frozenset list tuple"
_ERRORS = (
    "BaseException Exception ArithmeticError AssertionError AttributeError BufferError EOFError FileExistsError "
    "FileNotFoundError FloatingPointError ImportError IndexError InterruptedError IOError IsADirectoryError KeyError "
    "KeyboardInterrupt LookupError MemoryError ModuleNotFoundError NameError NotADirectoryError NotImplementedError "
    "OSError OverflowError PermissionError RecursionError RuntimeError StopIteration SystemExit TimeoutError TypeError "
    "UnicodeDecodeError ValueError Warning UserWarning ZeroDivisionError BrokenPipeError ConnectionError"
)
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

# What rebuilds a tensor. They run nothing they are given, as long as it is data.
REBUILDERS: Names = (
    _names("torch._utils", _REBUILDERS)
    | _names("torch.nested._internal.nested_tensor", "_rebuild_njt")
)  # fmt: skip

_ENUMS: Names = (
    _names("torchvision.transforms.functional", "InterpolationMode")  # ultralytics classify
    | _names("torchvision.transforms.autoaugment", "AutoAugmentPolicy")
    | _names("torchvision.tv_tensors._bounding_boxes", "BoundingBoxFormat")
    | _names("deepspeed.runtime.zero.config", "ZeroStageEnum")
    | _names("accelerate.utils.dataclasses", "DistributedType PrecisionType DynamoBackend")  # HF training_args.bin
    | _names("transformers.trainer_utils", "HubStrategy IntervalStrategy SaveStrategy SchedulerType EvaluationStrategy "
             "FSDPOption DebugOption")
    | _names("transformers.training_args", "OptimizerNames ParallelMode")
    | _names("lightning.pytorch.trainer.states", "TrainerStatus TrainerFn RunningStage")
    | _names("pytorch_lightning.trainer.states", "TrainerStatus TrainerFn RunningStage")
    | _names("http", "HTTPStatus HTTPMethod")
    | _names("inspect", "_ParameterKind")
    | _names("signal", "Signals")
    | _names("re", "RegexFlag")
    | _names("uuid", "SafeUUID")
)  # fmt: skip

_PLAIN: Names = (
    _in_each(_BUILTINS, _PLAIN_TYPES)
    | _names("__builtin__", "xrange unicode long")
    | _in_each("builtins exceptions", _ERRORS)  # a Lightning or Tune state that kept the exception it died of
    | _names("datetime", "datetime date time timedelta timezone")
    | _names("decimal", "Decimal")  # amounts in configurations
    | _names("fractions", "Fraction")
    | _names("uuid", "UUID")  # the id of a run
    | _names("re", "_compile")  # patterns in configurations
    | _names("time", "struct_time")
    | _names("ipaddress", "IPv4Address IPv6Address IPv4Network IPv6Network IPv4Interface IPv6Interface")
    | _names("urllib.parse", "ParseResult SplitResult")
    | _names("urlparse", "ParseResult SplitResult")
    | _names("string", "Template")
    | _names("array", "array _array_reconstructor")
    | _names("itertools", "count cycle")
    | _names("logging", "getLogger LogRecord")  # modules that keep their logger
    | _names("pathlib", _PATHS)  # train_args of ultralytics 8.0.x
    | _names("pathlib._local", _PATHS)  # the same written by Python 3.13
    | _names("torch", "Size device")
    | _names("torch.serialization", "_get_layout")
    | _names("torch.torch_version", "TorchVersion")  # version keys
    | _names("torch.jit._pickle", "build_boollist build_doublelist build_intlist build_tensorlist restore_type_tag "
             "build_tensor_from_id")  # TorchScript
    | _names("torch.nn.parameter", "UninitializedParameter UninitializedBuffer")  # lazy layers
    | _names("torch.nn.backends.thnn", "_get_thnn_function_backend")  # modules of torch < 1.5; gone today
    | _in_each("numpy", "dtype float64 float32 float16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool_ bool "
               "longdouble complex64 complex128 datetime64 timedelta64 str_ bytes_")
    | _names("numpy.dtypes", "Float64DType Float32DType Float16DType Int64DType Int32DType Int16DType Int8DType "
             "UInt8DType UInt16DType UInt32DType UInt64DType BoolDType StrDType ObjectDType")
    | _in_each("numpy.core.numeric numpy._core.numeric", "_frombuffer")
    | _names("numpy.random.bit_generator", "SeedSequence")
    | BIT_GENERATORS
    | _names("pandas._libs.internals", "_unpickle_block")  # frames and series, pandas 2 and 3
    | _names("pandas._libs.tslibs.nattype", "_nat_unpickle __nat_unpickle")
    | _names("pandas._libs.tslibs.timedeltas", "_timedelta_unpickle")
    | _names("pandas._libs.tslibs.timestamps", "_unpickle_timestamp")
    | _names("pandas._libs.tslibs.period", "Period")
    | _names("pandas", "Interval Period")
    | _names("pandas._libs.interval", "Interval")
    | _names("pandas.core.internals.managers", "BlockManager SingleBlockManager")
    | _in_each("dateutil.tz dateutil.tz.tz", "tzutc tzlocal tzoffset")
    | _names("pytz", "_p _UTC")  # time zones of pandas 2
    | _names("torch.amp.grad_scaler", "_refresh_per_optimizer_state")  # a whole GradScaler
    | _names("numpy.linalg", "LinAlgError")
    | _names("numpy.ma.core", "MaskedConstant")
)  # fmt: skip

# Made without arguments; their attributes follow by BUILD.
BARE: Names = (
    _names("argparse", "Namespace")  # torchvision references, timm, DETR: args
    | _names("types", "SimpleNamespace")
    | _names("random", "Random")
    | _names("_io", "BytesIO StringIO")
    | _names("collections", "UserDict UserList UserString ChainMap")
    | _names("UserDict", "IterableUserDict UserDict")
    | _names("UserList", "UserList")
    | _names("UserString", "UserString")
    | _names("torch.distributed.tensor", "DTensor Shard Replicate Partial DeviceMesh")  # FSDP2 state dicts
    | _names("torch.distributed.tensor._dtensor_spec", "DTensorSpec TensorMeta ShardOrderEntry")
    | _names("torch.distributed.tensor.placement_types", "Shard Replicate Partial _StridedShard")
    | _names("torch.distributed.device_mesh", "DeviceMesh")
    | _names("torch.distributed._mesh_layout", "_MeshLayout _FlatLayout")
    | _names("torch.nested._internal.nested_tensor", "NestedTensor")  # jagged tensors
    | _names("deepspeed.utils.tensor_fragment", "fragment_address tensor_fragment")  # ZeRO optimizer states
    | _names("ultralytics.utils", "IterableSimpleNamespace")  # the EMA's args
    | _names("ultralytics.yolo.utils", "IterableSimpleNamespace")
    | _names("numpy", "poly1d")
)  # fmt: skip

# Layers, losses and transforms outside of the class trees, or in small letters.
_LAYERS: Names = (
    _names("ultralytics.nn.modules.head", "v10Detect")  # YOLOv10
    | _names("ultralytics.engine.exporter", "iOSDetectModel")
    # the transforms of a classifier, in files of 8.0.44 and 8.0.200
    | _in_each("ultralytics.data.augment ultralytics.yolo.data.augment", "CenterCrop ToTensor")
    # the criterion, in files before 8.4.120
    | _in_each("ultralytics.utils.loss ultralytics.yolo.utils.loss",
               "v8DetectionLoss v8SegmentationLoss v8PoseLoss v8ClassificationLoss v8OBBLoss")
)  # fmt: skip

# Named in files, never called by loading them.
_VALUES: Names = (
    _names("torch", _DTYPES + " " + _QUALITIES + " SymInt")
    | frozenset(("torch._utils", f"torch.{name}") for name in _QUALITIES.split())  # as protocol 4 spells them
    | _names("torch.nn.functional", _FUNCTIONAL)  # activations kept as attributes
    | _names("torch._C._nn", "gelu silu hardswish mish leaky_relu scaled_dot_product_attention")
    | _in_each(_BUILTINS, "print Ellipsis NotImplemented type abs len max min sum round sorted")  # mmengine hooks
    # named in persistent ids and as types of tensors
    | _in_each("torch torch.cuda torch.storage", _STORAGES + " UntypedStorage _UntypedStorage Tensor")
    | _names("numpy", "ndarray matrix recarray memmap object_ record void")
    | _names("numpy.rec", "recarray record")
    | _names("numpy.ma", "MaskedArray")
    | _names("numpy.ma.core", "MaskedArray")
)  # fmt: skip

# Every known name and the rule on its calls. Later entries win.
KNOWN: dict[tuple[str, str], str] = {
    **dict.fromkeys(_VALUES, "value"),
    **dict.fromkeys(_PLAIN, "data"),
    **dict.fromkeys(_in_each(_BUILTINS, "str bytes bytearray"), "sized"),
    **dict.fromkeys(_in_each(_BUILTINS, _OF_ITEMS + " iter") | _names("collections", "deque"), "items"),
    **dict.fromkeys(_in_each(_BUILTINS, "dict") | _names("collections", "OrderedDict Counter"), "pairs"),
    **dict.fromkeys(BARE, "bare"),
    **dict.fromkeys(_LAYERS, "layer"),
    **dict.fromkeys(_ENUMS, "enum"),
    **dict.fromkeys(REBUILDERS, "rebuilder"),
    ("torch._tensor", "_rebuild_from_type_v2"): "of_type",  # tensor subclasses
    ("torch._tensor", "_rebuild_from_type"): "of_type",
    ("torch.tensor", "_rebuild_from_type"): "of_type",  # torch < 1.8
    ("torch.storage", "TypedStorage"): "storage",
    ("torch.storage", "_TypedStorage"): "storage",
    ("torch.storage", "_load_from_bytes"): "nested",  # storages pickled by copy.deepcopy or joblib
    **dict.fromkeys(_in_each("numpy.core.multiarray numpy._core.multiarray", "_reconstruct"), "array"),
    **dict.fromkeys(_in_each("numpy.core.multiarray numpy._core.multiarray", "scalar"), "scalar"),
    ("numpy.ma.core", "_mareconstruct"): "array",  # masked arrays
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): "own_class",
    ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"): "own_class",
    ("pandas.core.indexes.base", "_new_Index"): "own_class",
    ("pandas.core.indexes.datetimes", "_new_DatetimeIndex"): "own_class",
    ("pandas.core.indexes.interval", "_new_IntervalIndex"): "own_class",
    ("pandas.core.indexes.timedeltas", "_new_TimedeltaIndex"): "own_class",
    ("pandas.core.indexes.period", "_new_PeriodIndex"): "own_class",
    **dict.fromkeys(
        _names("numpy.random._pickle", "__randomstate_ctor __generator_ctor __bit_generator_ctor"), "bit_generator"
    ),  # states of random generators
    ("_codecs", "encode"): "latin1",  # bytes in protocol 2: numpy scalars everywhere
    **dict.fromkeys(_in_each(_BUILTINS, "getattr"), "attribute"),  # YOLO11-seg, mmengine; saved methods
    ("dill._dill", "_load_type"): "named_type",  # ultralytics 8.0.114 to 8.3.0 with dill installed
    ("cloudpickle.cloudpickle", "_builtin_type"): "named_type",
    ("types", "MethodType"): "method",
    ("types", "NoneType"): "value",
    ("zoneinfo", "ZoneInfo._unpickle"): "data",  # the time zone of a date
    ("dill._dill", "_create_array"): "dill_array",
    ("functools", "partial"): "partial",  # torchvision and timm modules
    ("collections", "defaultdict"): "factory",  # optimizer.state of torch, mmengine
    **dict.fromkeys(_in_each("copyreg copy_reg", "_reconstructor"), "reconstructor"),  # protocol 0 and 1 objects
    **dict.fromkeys(_in_each("copyreg copy_reg", "__newobj__ __newobj_ex__"), "newobj"),
    **dict.fromkeys(_in_each("operator _operator", "getitem"), "subscript"),  # typing.Optional[int] and its like
    ("types", "GenericAlias"): "subscript",
    **dict.fromkeys(_in_each("functools _functools __builtin__", "reduce"), "union"),  # int | None
    **dict.fromkeys(_in_each(_BUILTINS, "type"), "type_of"),  # type(None)
}

# Known names that follow a pattern: (module, name, rule), both matched as a whole.
PATTERNS: tuple[tuple[str, str, str], ...] = (
    (r"torch\.return_types", r"\w+", "data"),  # what torch.max and its like give back
    (r"transformers\.modeling_outputs", r"\w+", "data"),
    (r"torchvision\.models\..*", r"\w+_Weights", "enum"),
    (r"pandas(\..*)?", r"\w+Dtype", "data"),
    (r"pandas\._libs\.tslibs\.offsets", r"[A-Z]\w+", "data"),
    (r"scipy\.interpolate\..*", r"interp1d", "bare"),
    (r"scipy\.sparse\..*", r"(bsr|coo|csc|csr|dia|dok|lil)_(matrix|array)", "bare"),
)

# What these give back exists already, outside of the file: changing it would change the program.
SHARED: Names = _names("logging", "getLogger") | _names("torch.nn.backends.thnn", "_get_thnn_function_backend")

# Types that dill's ``_load_type`` and cloudpickle's ``_builtin_type`` name as text, and what they stand for.
NAMED_TYPES: dict[str, tuple[str, str]] = {
    **{
        name: ("builtins", name)
        for name in "dict list set tuple frozenset int float str bool bytes slice complex range object type "
        f"bytearray {_ERRORS}".split()
    },
    "OrderedDict": ("collections", "OrderedDict"),
    "NoneType": ("types", "NoneType"),
    "PartialType": ("functools", "partial"),
    "MethodType": ("types", "MethodType"),
    "GenericAlias": ("types", "GenericAlias"),
    "SimpleNamespace": ("types", "SimpleNamespace"),
}

# Attributes that known code looks up on an *instance* and calls while a file is loaded: CPython's BUILD, APPENDS and
# ADDITEMS, dict.update, torch's rebuilders and the ``__setstate__`` methods of layers and optimizers. Names with two
# leading and trailing underscores count, too. A callable under such a name would run.
DUCK_NAMES: frozenset[str] = frozenset(
    """
    append extend add keys items values get setdefault update pop popitem clear appendleft startswith endswith lower
    upper split strip format encode decode join replace parameters named_parameters detach detach_ requires_grad_ to
    as_subclass set_ clone cpu numpy tolist read readline readinto seek tell remove close reset teardown
    """.split()
)

# The same for layers and models, whose methods a trainer calls as soon as it has loaded them.
MODEL_NAMES: frozenset[str] = frozenset(
    """
    forward float half double bfloat16 type cuda eval train fuse apply modules named_modules children named_children
    buffers named_buffers state_dict load_state_dict zero_grad register_buffer register_parameter get_submodule
    get_parameter share_memory loss predict info forward_fuse init_criterion load is_fused
    """.split()
) | frozenset(  # what special methods of classes in the trees call on their instance (``__setstate__``, ``__hash__`` …)
    """
    _format_and_raise _get_module _deepcopy_impl _is_missing _is_none _get_abs_string_index _replace_old_cache_name
    _resolve_with_default _update_state_dict _initialize _is_interpolation _get_item_by_idx _key_to_attr
    convert_ids_to_tokens convert_tokens_to_ids to_json_string _load_attr_from_module _get_impl _validate_get _iter_ex
    add_module _slice_dq_kv_order _query_length_for_sliced_blocks _build_params_for_reducer _ddp_init_helper
    _build_debug_param_to_name_mapping _patch_step_function set_weight_bias _register_feature_hooks
    _redirection_through_forward _wrap_method_with_module_call_tracker _load_tensor _load_current_iterator detach_hook
    normalize_tensor _compute_groups_create_state_ref _wrap_update _wrap_compute _update_total_vocab_size
    _iter_config_keys_with_heterogeneous_adjustment get_result _setup_normalizer _stop_run_if_exists to_tuple _get_flag
    _validate_and_normalize_key _get_child copy _set_at_index _get_parent _slice_type _raise_immutable compute
    _shutdown_workers
    """.split()
)

# Text these attributes of a saved model hold is evaluated when a trainer builds the model from it (``parse_model`` of
# ultralytics 8.x and yolov5 calls ``eval`` on the activation and, in older releases, on modules and their arguments).
EVALUATED: frozenset[str] = frozenset({"yaml"})

# What a row ``[from, repeats, module, arguments]`` of such a yaml may name: ``parse_model`` calls whatever it finds
# under that name among its own globals, also layers of the user's own. These are none (``ultralytics/nn/tasks.py``
# of 8.0.44 to 8.4.190, ``models/yolo.py`` of yolov5 and yolov9).
LAYER_NAME = r"((torch\.)?nn\.|torchvision\.ops\.)?[^\W\d]\w*"
NOT_LAYERS: frozenset[str] = frozenset(
    """
    YAML Path LOGGER SafeUnpickler SafeClass Ensemble AutoBackend attempt_load_one_weight attempt_load_weights
    check_anchor_order check_class_names check_file check_requirements check_suffix check_version check_yaml colorstr
    contextlib deepcopy dist2bbox emojis feature_visualization fuse_conv_and_bn fuse_deconv_and_bn guess_model_scale
    guess_model_task importlib initialize_weights intersect_dicts load_checkpoint make_anchors make_divisible model_info
    nn np os parse_model pickle platform print_args profile re scale_img select_device smart_inference_mode sys
    temporary_modules thop threading time_sync torch torch_load torch_safe_load types yaml_load yaml_model_load exit
    quit print help type
    """.split()
)

# Modules that do something when they are imported, beside those called ``__main__``.
EFFECTS_OF_IMPORT: frozenset[str] = frozenset(
    "antigravity this idlelib.idle test.autotest test.regrtest turtledemo.__main__".split()
)

# Names of functions and classes that start processes, threads or the reading of files, whichever package re-exports
# them: psutil.Popen, six.exec_, gevent.subprocess.check_output.
EXECUTABLES: frozenset[str] = frozenset(
    """
    system popen popen2 popen3 popen4 Popen execv execve execvp execvpe execl execle execlp spawn spawnl spawnle spawnv
    spawnve spawnvp spawnlp posix_spawn fork forkpty startfile eval exec exec_ execfile compile __import__ import_module
    import_string import_object resolve_name load_module run_module run_path run_code run_cmd run_command run_shell
    subimport call check_call check_output getoutput getstatusoutput run runcode runsource runctx runeval open fdopen
    FileIO open_code urlopen urlretrieve download Process Thread Timer Pool ThreadPool ThreadPoolExecutor
    ProcessPoolExecutor Command ShellCommand Shell CDLL PyDLL WinDLL LoadLibrary create_connection socket
    create_subprocess_exec create_subprocess_shell FileHandler SummaryWriter PackageImporter Unpickler loads
    load_pickle unpickle send2trash rmtree unlink remove removedirs rmdir symlink copyfile copytree move input raw_input
    breakpoint set_trace attrgetter methodcaller FunctionType CodeType LambdaType MethodType apply reload exec_module
    load_lexer_from_file load_formatter_from_file load_source load_dynamic InteractiveInterpreter InteractiveConsole
    Repo Git PythonInterpreter Executor getattr setattr delattr
    """.split()
)

# Modules below a class tree whose classes open files or evaluate text when they get their state or are made.
OPENERS: tuple[str, ...] = (
    r"transformers(\..*)?\.tokenization_(?!utils)\w+",  # SentencePiece tokenizers load their vocabulary in __setstate__
    r"transformers\.integrations(\..*)?",  # NeptuneCallback.__del__ deletes a folder that its state names
    r"ultralytics\.nn\.(autobackend|backends)(\..*)?",
    r"(pytorch_lightning|lightning\.(pytorch|fabric))\.strategies(\..*)?",
    r"transformers\.exporters(\..*)?",
    r"accelerate\.data_loader",
    r"transformers\.pipelines(\..*)?",
    r"(pytorch_lightning|lightning\.(pytorch|fabric))\.(loggers|profilers)(\..*)?",
    r"pandas\.core\.computation(\..*)?",
)

# Such classes by their names, since any module that imports one is a way to it. Those of :data:`EXECUTABLES`, which
# the modules of a tree import from elsewhere, are no classes of a tree either.
OPENING_NAMES = (
    r"\w*(Tokenizer|TokenizerFast|Profiler|Logger|LightningCLI|Handler|ArgumentParser|Subprocess\w*|Client|Server)"
    r"|\w*(Temporary\w+|ZipFile|TarFile|URLopener|Socket)|(DDP|FSDP|Deep[sS]peed|XLA|ModelParallel|Single\w+)?Strategy"
    r"|(Neptune|MLflow|Comet|WandB|Wandb|TensorBoard|AzureML|CodeCarbon|ClearML|Dagshub|DVCLive|Flyte|Swanlab|SwanLab)"
    r"\w*Callback|\w*Script(Module|Function)"
)

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
    "pandas",
)

# Of these, the trees of layers and models: a method bound to one of theirs is fetched without running anything.
MODEL_TREES: tuple[str, ...] = tuple(
    tree
    for tree in CLASS_TREES
    if tree.startswith(("torch.", "ultralytics.", "models.", "yolo", "mmyolo.", "mmdet.", "torchvision.", "timm.",
                        "rfdetr", "libreyolo", "detectron2.", "fvcore.", "super_gradients."))
)  # fmt: skip

# Of these, the trees whose classes hold data; an instance of any other can be called, as a layer or a transform.
DATA_TREES: tuple[str, ...] = ("omegaconf", "pandas")

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
    six pygments send2trash psutil git gitdb invoke packaging filelock portalocker appdirs platformdirs watchdog
    watchfiles humanfriendly cpuinfo thop pycocotools albumentations roboflow decorator traitlets prompt_toolkit jedi
    parso ptyprocess wcwidth colorama termcolor tabulate mako markupsafe loguru tenacity backoff apscheduler schedule
    deepdiff charset_normalizer dateutil isal natsort ultralytics_thop ultralytics_hub cachetools diskcache execnet
    pluggy py
    fontTools contourpy kiwisolver cycler pyparsing certifi idna regex hf_xet truststore shellingham
    sortedcontainers multidict yarl frozenlist aiosignal propcache cuda pynvml orderly_set markdown_it mdurl
    pathspec iniconfig xdist mypy mypyc ruff annotated_doc typing_extensions sentencepiece sacremoses jieba peft
    trl bitsandbytes evaluate
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
