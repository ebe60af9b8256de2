<%@ page contentType="text/plain" %>Six times seven is <%= 6 * 7 %>, says <%= application.getServerInfo() %>.
