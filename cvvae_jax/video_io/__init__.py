"""Video and image files in and out; the only importer of PyAV."""
