"""Checkpoints that fit any grid: written by all ranks at once, read by any number of ranks on any plan.

    checkpoints/
        latest                      name of the newest, for people and scripts
        step-00000120/
            index.json              shape, type and pieces of every array; size and checksum of every file
            state.json              what is no array: step, epoch, updates, seed, loss, plan, configuration, versions
            shard-00003.safetensors what rank 3 wrote
        step-00000180.<run>.part/   on its way: nobody reads it

| file       | subject                                                                           | MPI  |
|------------|-----------------------------------------------------------------------------------|------|
| `contents` | which rank writes which elements of which array: integers only                    | no   |
| `index`    | ``index.json`` and ``state.json`` as values and texts                             | no   |
| `shards`   | one shard: laid out, written to the disk, read back                               | no   |
| `folders`  | names of steps, the one rename that makes a checkpoint, which are kept            | no   |
| `read`     | a checkpoint opened, found damaged, boxes of its arrays; the newest that is whole | no   |
| `whole`    | all of a checkpoint in one process: verified, exported                            | no   |
| `onnx`     | the network with its weights as an ONNX file for inference                        | no   |
| `save`     | one rank's part written; a checkpoint made of all parts                           | no   |
| `behind`   | a thread with a result, and words to tell others of it                            | no   |
| `live`     | arrays of a model and its optimizer, to be saved and restored                     | uses |
| `write`    | `Writer`: behind training, and an agreement that no rank waits for                | uses |
| `find`     | the newest checkpoint, its checksums shared out over the ranks                    | uses |
"""
