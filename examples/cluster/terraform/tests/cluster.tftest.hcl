# terraform init && terraform test: needs Terraform 1.7, and neither an account nor keys.

mock_provider "aws" {
  override_data {
    target = data.aws_partition.current
    values = { partition = "aws" }
  }
  override_data {
    target = data.aws_service_principal.ec2
    values = { name = "ec2.amazonaws.com" }
  }
  override_data {
    target = data.aws_subnet.node["0"]
    values = { availability_zone = "us-east-1a" }
  }
  override_data {
    target = data.aws_subnet.node["1"]
    values = { availability_zone = "us-east-1b" }
  }
  override_data {
    target = data.aws_subnet.node["2"]
    values = { availability_zone = "us-east-1c" }
  }
  override_data {
    target = data.aws_subnet.node["3"]
    values = { availability_zone = "us-east-1a" }
  }
}

variables {
  nodes              = { "0" = "subnet-1a", "1" = "subnet-1b", "2" = "subnet-1c" }
  image_id           = "ami-0123456789abcdef0"
  security_group_ids = ["sg-0123456789abcdef0"]
}

run "one_group" {
  command = plan

  assert {
    condition     = keys(aws_autoscaling_group.nodes) == ["kafka"]
    error_message = "There is one group."
  }
  assert {
    condition     = aws_autoscaling_group.nodes["kafka"].max_size == 3
    error_message = "It has an instance for each node."
  }
  assert {
    condition     = aws_autoscaling_group.nodes["kafka"].instance_refresh[0].preferences[0].min_healthy_percentage == 66
    error_message = "A refresh replaces one instance at a time."
  }
  assert {
    condition     = { for key, volume in aws_ebs_volume.member : key => volume.availability_zone if volume.tags["KRKN-IN:VolumeName"] == "log" } == { "0/log" = "us-east-1a", "1/log" = "us-east-1b", "2/log" = "us-east-1c" }
    error_message = "Each node has its volumes in the zone of its subnet."
  }
}

run "group_per_zone" {
  command = plan

  variables {
    nodes          = { "0" = "subnet-1a", "1" = "subnet-1b", "2" = "subnet-1c", "3" = "subnet-1a" }
    group_per_zone = true
  }

  assert {
    condition     = { for name, group in aws_autoscaling_group.nodes : name => group.max_size } == { "kafka-us-east-1a" = 2, "kafka-us-east-1b" = 1, "kafka-us-east-1c" = 1 }
    error_message = "Each zone has a group of its nodes."
  }
  assert {
    condition     = alltrue([for group in aws_autoscaling_group.nodes : length(group.instance_refresh) == 0])
    error_message = "No group is refreshed by itself: all would be at once."
  }
}

run "uneven_zones_in_one_group" {
  command = plan

  variables {
    nodes = { "0" = "subnet-1a", "1" = "subnet-1b", "2" = "subnet-1c", "3" = "subnet-1a" }
  }

  expect_failures = [aws_autoscaling_group.nodes]
}
