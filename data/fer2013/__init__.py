"""FER2013: from what lies there to data.h5 to three splits."""
