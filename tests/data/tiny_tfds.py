"""Writes small prepared TFDS data sets, without TensorFlow."""

import io
import json

import numpy as np
import PIL.Image


def image_feature(*shape):
    return {
        "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
        "image": {"shape": {"dimensions": [str(-1 if size is None else size) for size in shape]}, "dtype": "uint8"},
    }


def label_feature(count):
    return {
        "pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": str(count)},
    }


def tensor_feature(dtype, *shape):
    return {
        "pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor",
        "tensor": {"shape": {"dimensions": [str(size) for size in shape]}, "dtype": dtype, "encoding": "none"},
    }


def png(pixels):
    out = io.BytesIO()
    PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(out, "png")
    return out.getvalue()


def serialized(record):
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    for name, value in record.items():
        feature = example.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif np.asarray(value).dtype.kind == "f":
            feature.float_list.value.extend(np.ravel(value).tolist())
        else:
            feature.int64_list.value.extend(np.ravel(value).tolist())
    return example.SerializeToString()


def prepare(data_dir, features, splits, name="tiny", version="1.0.0", file_format="array_record"):
    """Writes what `tfds build --file_format=array_record` leaves behind, without TensorFlow."""
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = data_dir / name / version
    folder.mkdir(parents=True)
    described = []
    for split, records in splits.items():
        writer = ArrayRecordWriter(str(folder / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1")
        for record in records:
            writer.write(serialized(record))
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        described.append({"name": split, "shardLengths": [str(len(records))], "filepathTemplate": template})
    info = {"name": name, "version": version, "fileFormat": file_format, "splits": described}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    root = {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    (folder / "features.json").write_text(json.dumps(root))
