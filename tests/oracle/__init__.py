"""The verdict held against what really loads and resumes: torch, and the ultralytics trainer."""
