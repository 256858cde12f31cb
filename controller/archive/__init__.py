"""The older part of a controller's log, in compressed files beside the store that holds the newer part.

`segment` is what stands in a file, `directory` the files, `archived_log` a log that reads through both, `compaction`
says when commits move from the store into a file, `storage` what all of it takes.
"""
