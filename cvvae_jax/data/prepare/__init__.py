"""`data prepare`: videos and images of any source, transcoded into ArrayRecord shards."""
